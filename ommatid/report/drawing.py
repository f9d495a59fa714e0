"""What was seen on a picture, drawn on it: classes of pixels as colours, things as boxes with names and scores."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ommatid.report.figure import PALETTE

OPACITY = 0.55
"""Of colours over the picture."""

LEAST_SIDE = 480
"""Pictures are enlarged to it before anything is written on them."""


class Seen(NamedTuple):
    """A thing to draw: left, top, right and bottom in pixels, what to write, its class, and its mask (H, W)."""

    box: Sequence[float]
    text: str
    label: int
    mask: np.ndarray | None = None


def class_colours(count: int) -> np.ndarray:
    """(count, 3) uint8, for as many classes; neighbours differ."""
    named = [ImageColor.getrgb(colour)[:3] for colour in PALETTE[:count]]
    hues = [0.618 * number % 1 for number in range(count - len(named))]
    made = [tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.65, 0.9)) for hue in hues]
    return np.array(named + made, np.uint8).reshape(-1, 3)


def masked_picture(image: Image.Image, mask: np.ndarray, count: int) -> Image.Image:
    """The classes (H, W) of its pixels as colours over the picture; classes from `count` on are left as they are."""
    pixels = np.asarray(image.convert("RGB")).astype(float)
    known = mask < count
    over = class_colours(count)[np.where(known, mask, 0)]
    mixed = np.where(known[..., None], (1 - OPACITY) * pixels + OPACITY * over, pixels)
    return enlarged(Image.fromarray(mixed.round().astype(np.uint8)))


def marked_picture(image: Image.Image, things: Sequence[Seen], count: int) -> Image.Image:
    """Boxes, names and masks of things over the picture, of `count` classes; the first on top."""
    colours = class_colours(count)
    picture = np.asarray(image.convert("RGB")).astype(float)
    for thing in reversed(things):
        if thing.mask is not None:
            picture[thing.mask] = (1 - OPACITY) * picture[thing.mask] + OPACITY * colours[thing.label]
    canvas = enlarged(Image.fromarray(picture.round().astype(np.uint8)))
    scale = canvas.width / image.width
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(11, canvas.height // 40))
    for thing in reversed(things):
        colour = tuple(int(part) for part in colours[thing.label])
        left, top, right, bottom = (scale * edge for edge in thing.box)
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=2)
        if thing.text:
            _write(draw, thing.text, (left, top), colour, font)
    return canvas


def segmented_picture(image: Image.Image, segments: np.ndarray, labels: Sequence[int], count: int) -> Image.Image:
    """The segments (H, W) of its pixels in the colours of their `labels`, of `count` classes, with edges in white.

    Segments count from 1; pixels without one, 0, are left as they are.
    """
    classes = np.array([count, *labels])[segments]
    canvas = masked_picture(image, classes, count)
    factor = canvas.width // image.width
    numbers = segments.repeat(factor, 0).repeat(factor, 1)
    edge = np.zeros(numbers.shape, bool)
    edge[:, :-1] |= numbers[:, :-1] != numbers[:, 1:]
    edge[:-1] |= numbers[:-1] != numbers[1:]
    return Image.fromarray(np.where(edge[..., None], np.uint8(255), np.asarray(canvas)))


def enlarged(image: Image.Image) -> Image.Image:
    """A whole number of times as large, where it is small."""
    factor = -(-LEAST_SIDE // max(image.size))
    return (
        image.resize((image.width * factor, image.height * factor), Image.Resampling.BILINEAR) if factor > 1 else image
    )


def _write(
    draw: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], colour: tuple[int, ...], font: Any
) -> None:
    """On a ground of the class's colour, above the corner where there is room."""
    left, _, right, bottom = draw.textbbox((0, 0), text, font)
    x, y = corner[0], corner[1] - bottom - 3 if corner[1] > bottom + 3 else corner[1]
    draw.rectangle((x, y, x + right - left + 4, y + bottom + 2), fill=colour)
    bright = sum(part * weight for part, weight in zip(colour, (0.3, 0.59, 0.11), strict=True)) > 140
    draw.text((x + 2, y), text, "black" if bright else "white", font)
