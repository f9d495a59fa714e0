"""What a page shows of a restored picture: the whole of it, made smaller, and a part of it pixel for pixel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from ommatid.data.decode import to_rgb, upright
from ommatid.data.picture_file import PictureFile, as_image
from ommatid.report.before_after import jpeg_uri

WHOLE_SIDE = 800
DETAIL_SIDE = 480


class View(NamedTuple):
    """One thing to look at, as data URIs of the same size."""

    title: str
    before: str
    after: str


class Box(NamedTuple):
    """Pixels of the picture before: its rows from top to bottom, its columns from left to right."""

    top: int
    bottom: int
    left: int
    right: int


def views(before: PictureFile, after: PictureFile) -> Iterator[View]:
    """The picture as a whole; where it had to be made smaller for that, also its middle.

    The picture before is enlarged with the bicubic filter where the one after is larger.
    """
    height, width = before.pixels.shape[:2]
    scale = after.pixels.shape[0] // height
    shrink = max(1.0, scale * max(height, width) / WHOLE_SIDE)
    yield _view("The whole picture", before, after, Box(0, height, 0, width), scale / shrink)
    if shrink > 1:
        rows, columns = (_middle(length, DETAIL_SIDE // scale) for length in (height, width))
        yield _view("The middle, pixel for pixel", before, after, Box(*rows, *columns), scale)


def _view(title: str, before: PictureFile, after: PictureFile, box: Box, zoom: float) -> View:
    """zoom: pixels shown for each pixel of the picture before."""
    scale = after.pixels.shape[0] // before.pixels.shape[0]
    size = max(1, round(zoom * (box.right - box.left))), max(1, round(zoom * (box.bottom - box.top)))
    enlarged = Box(*(scale * edge for edge in box))
    return View(title, jpeg_uri(_shown(before, box, size)), jpeg_uri(_shown(after, enlarged, size)))


def _shown(picture: PictureFile, box: Box, size: tuple[int, int]) -> Image.Image:
    # Twice what is needed is enough for the filter; a large picture is never converted as a whole.
    step = max(1, (box.right - box.left) // (2 * size[0]))
    part = picture.pixels[box.top : box.bottom : step, box.left : box.right : step]
    if part.dtype == np.uint16:
        part = (part >> 8).astype(np.uint8)
    image = to_rgb(as_image(np.ascontiguousarray(part))).resize(size, Image.Resampling.BICUBIC)
    image.info["exif"] = picture.exif
    return upright(image)


def _middle(length: int, wanted: int) -> tuple[int, int]:
    start = max(0, (length - wanted) // 2)
    return start, min(length, start + wanted)
