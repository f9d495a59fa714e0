"""What a restoration network sees of a picture: a random patch in training, its middle in validation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ommatid.data.degrade import Degradation

Pair = tuple[Tensor, Tensor]
"""(degraded (3, h, w), clean (3, scale h, scale w)), float, 0 to 1."""


def degraded_patch(clean: np.ndarray, degradation: Degradation, side: int, generator: torch.Generator) -> Pair:
    """A patch of `side` degraded pixels, anywhere in the picture (H, W, 3) uint8, flipped and turned.

    Degraded with as much around it as the degradation reaches: it comes out as from the degraded whole.
    """
    clean = _turned(clean, _eighth(generator))
    scale, grid = degradation.scale, degradation.grid
    margin = -(-degradation.reach // scale)
    windows, patches = [], []
    for length in clean.shape[:2]:
        start = _start(length // scale, side, generator)
        first = max(start - margin, 0) // grid * grid
        last = min(-(-(start + side + margin) // grid) * grid, length // scale)
        windows.append(slice(first * scale, last * scale))
        patches.append(slice(start - first, start - first + side))
    around = as_tensor(clean[tuple(windows)])
    spoilt = degradation(around, generator)
    return _cropped(spoilt, patches), _cropped(around, [_enlarged(patch, scale) for patch in patches])


def pair_patch(degraded: np.ndarray, clean: np.ndarray, side: int, generator: torch.Generator) -> Pair:
    """A patch of `side` degraded pixels, anywhere in a pair of pictures (H, W, 3) uint8, both flipped and turned."""
    eighth = _eighth(generator)
    degraded, clean = _turned(degraded, eighth), _turned(clean, eighth)
    scale = clean.shape[0] // degraded.shape[0]
    patch = []
    for length in degraded.shape[:2]:
        start = _start(length, side, generator)
        patch.append(slice(start, start + side))
    return as_tensor(degraded[tuple(patch)]), as_tensor(clean[tuple(_enlarged(along, scale) for along in patch)])


def middle(picture: np.ndarray, most: int | None, multiple: int) -> np.ndarray:
    """The centre of (H, W, 3), of sides that are multiples and at most `most` pixels; None for no limit."""
    sides = [min(length, most or length) // multiple * multiple for length in picture.shape[:2]]
    # Starting at a multiple too: the middles of the two pictures of a pair show the same.
    starts = [
        (length - side) // (2 * multiple) * multiple for length, side in zip(picture.shape[:2], sides, strict=True)
    ]
    return picture[tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))]


def as_tensor(picture: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float, 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))) / 255


def _eighth(generator: torch.Generator) -> int:
    """One of the eight ways to lay a square on itself."""
    return int(torch.randint(8, (), generator=generator))


def _turned(picture: np.ndarray, eighth: int) -> np.ndarray:
    """A view of (H, W, C)."""
    quarters = np.rot90(picture, eighth % 4)
    return quarters[:, ::-1] if eighth >= 4 else quarters


def _start(length: int, side: int, generator: torch.Generator) -> int:
    return int(torch.randint(length - side + 1, (), generator=generator))


def _enlarged(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)


def _cropped(picture: Tensor, parts: list[slice]) -> Tensor:
    rows, columns = parts
    return picture[:, rows, columns]
