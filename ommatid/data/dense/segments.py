"""Segments: from a file of ids, or painted from outlines, to the number of every pixel's segment, 0 for none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ommatid.data.decode import decoded
from ommatid.data.dense.masks import painting_order, thing_mask
from ommatid.data.dense.scene import Segment, Thing
from ommatid.data.errors import UnreadableImageError

CODE = np.array([1, 1 << 8, 1 << 16])
"""What red, green and blue count in an id."""


def read_ids(path: Path) -> np.ndarray:
    """(H, W) int64: R + 256 G + 65536 B of an RGB file. Raises UnreadableImageError with the reason."""
    with decoded(path) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise UnreadableImageError(f"its file of segments has {image.mode} pixels; allowed: RGB")
        return np.asarray(image.convert("RGB")).astype(np.int64) @ CODE


def colours_of_ids(ids: np.ndarray) -> np.ndarray:
    """(H, W) integers -> (H, W, 3) uint8, from which `read_ids` reads them again."""
    return (ids[..., None] // CODE % 256).astype(np.uint8)


def numbered(ids: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    """(H, W) ids -> (H, W) int32: from 1, the place of its segment among `segments`; 0 for an id of none of them."""
    known = np.array([segment.id for segment in segments], np.int64)
    if not len(known):
        return np.zeros(ids.shape, np.int32)
    order = known.argsort()
    places = np.searchsorted(known[order], ids).clip(max=len(known) - 1)
    return np.where(known[order][places] == ids, order[places] + 1, 0).astype(np.int32)


def painted_segments(things: Sequence[Thing], height: int, width: int) -> np.ndarray:
    """(H, W) int32: from 1, the place of a pixel's thing among `things`, smaller ones over larger ones; 0 behind them.

    Things without an outline are painted as their boxes.
    """
    numbers = np.zeros((height, width), np.int32)
    for place in painting_order(things):
        numbers[thing_mask(things[place], height, width)] = place + 1
    return numbers
