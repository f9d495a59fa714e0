"""The embedded scenes: shapes with the looks of real photographs, one before the other; no file and no network."""

from __future__ import annotations

import numpy as np

from ommatid.data.dense.scene import Scene, SceneListing, Thing
from ommatid.data.photographs import photographs
from ommatid.data.record import Record

SHAPES = ("disc", "square", "triangle", "cross")
"""Names of the classes: only the shape tells them apart, whatever it is filled with."""

TRAIN, VAL = 160, 40
HEIGHT, WIDTH = 96, 128
MOST_THINGS = 5

VISIBLE = 0.4
"""A thing of which others leave less to see is not drawn."""


def list_generated() -> SceneListing:
    """The embedded scenes, 160 to train on and 40 to judge by, the same for everyone."""
    scenes = [
        *(draw_scene(f"scenes/train-{number:03d}", "train", number) for number in range(TRAIN)),
        *(draw_scene(f"scenes/val-{number:03d}", "val", TRAIN + number) for number in range(VAL)),
    ]
    return SceneListing(scenes, SHAPES)


def draw_scene(name: str, split: str | None, seed: int, height: int = HEIGHT, width: int = WIDTH) -> Scene:
    """One scene of up to five things, those drawn later before those drawn earlier. All follows from `seed`."""
    random = np.random.default_rng(seed)
    picture = _texture(random, height, width)
    owner = np.zeros((height, width), int)
    labels: list[int] = []
    for _ in range(random.integers(1, MOST_THINGS + 1)):
        label = int(random.integers(len(SHAPES)))
        inside = _shape(random, SHAPES[label], height, width)
        covered = np.where(inside, len(labels) + 1, owner)
        if not inside.any() or _hides(owner, covered):
            continue
        looks = _texture(random, height, width)
        looks = np.clip(looks * random.uniform(0.5, 1.3, 3), 0, 255)
        picture = np.where(inside[..., None], looks, picture)
        owner = covered
        labels.append(label)
    pixels = np.clip(picture + random.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
    things = tuple(_thing(owner == number, label) for number, label in enumerate(labels, start=1))
    return Scene(Record(name, "", split, pixels), (width, height), things=things)


def _hides(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a thing would be left with too little to see of what was to be seen of it."""
    counts = np.bincount(before.ravel(), minlength=after.max() + 1)
    left = np.bincount(after.ravel(), minlength=len(counts))
    return any(left[number] < VISIBLE * counts[number] for number in range(1, before.max() + 1))


def _thing(mask: np.ndarray, label: int) -> Thing:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
    return Thing(box, label, mask, area=float(mask.sum()))


def _texture(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A part of one of the embedded photographs, (height, width, 3) float."""
    pictures = list(photographs().values())
    pixels = pictures[random.integers(len(pictures))]
    top = random.integers(pixels.shape[0] - height + 1)
    left = random.integers(pixels.shape[1] - width + 1)
    return pixels[top : top + height, left : left + width].astype(float)


def _shape(random: np.random.Generator, name: str, height: int, width: int) -> np.ndarray:
    """(height, width) bool: a shape of random size, place and angle."""
    reach = random.uniform(0.12, 0.3) * min(height, width)
    y, x = random.uniform(0.5 * reach, height - 0.5 * reach), random.uniform(0.5 * reach, width - 0.5 * reach)
    angle = random.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:height, :width] + 0.5
    across = np.cos(angle) * (columns - x) + np.sin(angle) * (rows - y)
    along = np.cos(angle) * (rows - y) - np.sin(angle) * (columns - x)
    if name == "disc":
        return across**2 + along**2 <= reach**2
    if name == "square":
        return np.maximum(abs(across), abs(along)) <= 0.8 * reach
    if name == "triangle":
        return (along <= 0.5 * reach) & (np.sqrt(3) * abs(across) <= along + reach)
    return (np.minimum(abs(across), abs(along)) <= 0.3 * reach) & (np.maximum(abs(across), abs(along)) <= reach)
