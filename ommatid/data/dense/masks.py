"""Masks: from a file, or painted from outlines, to a class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from ommatid.data.decode import decoded
from ommatid.data.dense.scene import IGNORED, MOST_CLASSES, Outline, Thing
from ommatid.data.errors import UnreadableImageError

Colours = Sequence[tuple[int, int, int]]


def read_mask(path: Path, classes: int | None, colours: Colours | None) -> np.ndarray:
    """(H, W) uint8: classes from 0, `IGNORED` where there is none. Raises UnreadableImageError with the reason.

    A file says classes by number (grey, or the index of a palette), or by colour, one of `colours` for each class;
    `classes` is their number, None where the files themselves say it. No class: 255, the number behind the last class,
    or black, where that is no class's colour.
    """
    with decoded(path) as image:
        if image.mode in ("RGB", "RGBA"):
            return _by_colour(np.asarray(image.convert("RGB")), colours)
        if image.mode == "LA":
            image = image.getchannel("L")
        if image.mode not in ("L", "P", "1") and not image.mode.startswith("I"):
            raise UnreadableImageError(f"its mask has {image.mode} pixels; allowed: class numbers, or RGB colours")
        return _by_number(np.asarray(image).astype(np.int64), classes)


def _by_number(numbers: np.ndarray, classes: int | None) -> np.ndarray:
    count = MOST_CLASSES if classes is None else classes
    void = (numbers == IGNORED) | (numbers == count)
    wrong = numbers[~void & ((numbers < 0) | (numbers >= count))]
    if wrong.size:
        raise UnreadableImageError(
            f"class {wrong[0]} in {wrong.size} pixels of its mask; allowed: 0 to {count - 1}, "
            f"and {count} or {IGNORED} for pixels that are not judged"
        )
    return np.where(void, IGNORED, numbers).astype(np.uint8)


def _by_colour(pixels: np.ndarray, colours: Colours | None) -> np.ndarray:
    if colours is None:
        if (pixels == pixels[..., :1]).all():  # grey that was saved as RGB
            return _by_number(pixels[..., 0].astype(np.int64), None)
        raise UnreadableImageError("its mask is in colours; say them in classes.txt: NAME RED GREEN BLUE in each line")
    codes = _code(pixels)
    table = {int(_code(np.array(colour))): label for label, colour in enumerate(colours)}
    table.setdefault(0, IGNORED)
    found, places = np.unique(codes, return_inverse=True)
    unknown = [code for code in found.tolist() if code not in table]
    if unknown:
        colour = tuple(unknown[0] >> shift & 255 for shift in (16, 8, 0))
        raise UnreadableImageError(f"colour {colour} in its mask is that of no class in classes.txt")
    return np.array([table[code] for code in found.tolist()], np.uint8)[places].reshape(codes.shape)


def _code(pixels: np.ndarray) -> np.ndarray:
    """A number for each colour (..., 3)."""
    return pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def outline_mask(outline: Outline, height: int, width: int) -> np.ndarray:
    """(H, W) bool, drawn as COCO's tools do. Raises UnreadableImageError for what is no outline of that size."""
    if isinstance(outline, np.ndarray):
        return outline
    from faster_coco_eval.core import mask as coco_masks

    try:
        return coco_masks.decode(run_lengths(outline, height, width)).astype(bool).reshape(height, width)
    except Exception as error:  # compiled code on untrusted numbers
        raise UnreadableImageError(f"an outline that cannot be drawn: {error}") from None


def run_lengths(outline: Outline, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed run lengths of an outline."""
    from faster_coco_eval.core import mask as coco_masks

    if isinstance(outline, np.ndarray):
        return coco_masks.encode(np.asfortranarray(outline, dtype=np.uint8))
    if isinstance(outline, list):
        return coco_masks.merge(coco_masks.frPyObjects(outline, height, width))
    if list(outline["size"]) != [height, width]:
        raise ValueError(f"run lengths for {outline['size'][1]} x {outline['size'][0]} pixels")
    return coco_masks.frPyObjects(outline, height, width) if isinstance(outline["counts"], list) else outline


def painted(things: Sequence[Thing], height: int, width: int) -> np.ndarray:
    """(H, W) uint8: 0 behind all things, label + 1 on each; smaller things over larger, crowds `IGNORED`.

    Things without an outline are painted as their boxes.
    """
    mask = np.zeros((height, width), np.uint8)
    for place in painting_order(things):
        thing = things[place]
        mask[thing_mask(thing, height, width)] = IGNORED if thing.crowd else thing.label + 1
    return mask


def painting_order(things: Sequence[Thing]) -> list[int]:
    """Places of the things, that to paint first first: crowds, then the larger."""
    return sorted(range(len(things)), key=lambda place: (not things[place].crowd, -_box_area(things[place])))


def thing_mask(thing: Thing, height: int, width: int) -> np.ndarray:
    """(H, W) bool: its outline, or its box where it has none."""
    if thing.outline is not None:
        return outline_mask(thing.outline, height, width)
    mask = np.zeros((height, width), bool)
    left, top, right, bottom = (round(edge) for edge in thing.box)
    mask[max(top, 0) : bottom, max(left, 0) : right] = True
    return mask


def mask_boxes(masks: Tensor) -> Tensor:
    """(n, H, W) bool, each with a pixel -> (n, 4): left, top, right and bottom edge."""
    return masks_to_boxes(masks) + masks.new_tensor([0, 0, 1, 1], dtype=torch.float32)


def _box_area(thing: Thing) -> float:
    left, top, right, bottom = thing.box
    return (right - left) * (bottom - top)
