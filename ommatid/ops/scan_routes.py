"""Routes through a map that visit every position once, and what is read along them and put back.

Source: "MHS-VM: Multi-Head Scanning in Parallel Subspaces for Vision Mamba" (arXiv 2406.05992). Each shape stands for
four routes: one, its reverse, a second that mirrors or transposes the first, and that one's reverse.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Shape = Literal["snake", "diagonal", "spiral", "raster"]
IntArray = NDArray[np.int64]

ROUTES = 4
"""Of each shape."""


def along_routes(features: Tensor, shapes: tuple[Shape, ...]) -> Tensor:
    """(B, H, W, K C) -> (B, 4 K, H W, C): each of the K groups of channels, read along the routes of its shape."""
    size, groups = (features.shape[1], features.shape[2]), len(shapes)
    tokens = features.flatten(1, 2).unflatten(-1, (groups, -1)).transpose(1, 2)  # (B, K, L, C)
    start = np.arange(groups)[:, None, None] * tokens.shape[2]
    index = _index(scan_routes(size, shapes).reshape(groups, ROUTES, -1) + start, features)
    return tokens.flatten(1, 2).index_select(1, index).unflatten(1, (groups * ROUTES, -1))


def by_position(sequences: Tensor, size: tuple[int, int], shapes: tuple[Shape, ...]) -> Tensor:
    """(B, 4 K, H W, C) -> the same by position and not by step: what every route found there; size is (H, W)."""
    steps = _steps(size, shapes)
    start = np.arange(len(steps))[:, None] * steps.shape[1]
    return sequences.flatten(1, 2).index_select(1, _index(steps + start, sequences)).view(sequences.shape)


# NumPy tables and not tensors: a cached tensor would stay a fake one when the first call is a torch.export trace.
@lru_cache(maxsize=64)
def scan_routes(size: tuple[int, int], shapes: tuple[Shape, ...]) -> IntArray:
    """(4 K, H W): the position, counted row by row, that each route visits at each step; size is (H, W)."""
    routes: list[IntArray] = []
    for shape in shapes:
        for route in _PAIRS[shape](*size):
            routes += [route, route[::-1]]
    return np.stack(routes)


@lru_cache(maxsize=64)
def _steps(size: tuple[int, int], shapes: tuple[Shape, ...]) -> IntArray:
    """(4 K, H W): the step at which each route visits each position."""
    return np.argsort(scan_routes(size, shapes), axis=1)


def _index(positions: IntArray, like: Tensor) -> Tensor:
    return torch.as_tensor(positions, device=like.device).flatten()


def _snake(height: int, width: int) -> tuple[IntArray, IntArray]:
    """Row by row, every other one backwards; and column by column."""
    row, column = _grid(height, width)
    across = np.lexsort((np.where(row % 2, -column, column), row))
    return across, np.lexsort((np.where(column % 2, -row, row), column))


def _diagonal(height: int, width: int) -> tuple[IntArray, IntArray]:
    """Anti-diagonal by anti-diagonal from the top left corner, up and down in turns; and mirrored left to right."""
    row, column = _grid(height, width)
    diagonal = row + column
    route = np.lexsort((np.where(diagonal % 2, row, -row), diagonal))
    return route, route // width * width + width - 1 - route % width


def _spiral(height: int, width: int) -> tuple[IntArray, IntArray]:
    """Clockwise and inwards from the top left corner; and mirrored top to bottom."""
    row, column = _grid(height, width)
    ring = np.minimum(np.minimum(row, column), np.minimum(height - 1 - row, width - 1 - column))
    down, right = height - 1 - 2 * ring, width - 1 - 2 * ring  # steps along the sides of a ring
    row, column = row - ring, column - ring
    sides = [row == 0, column == right, row == down]
    steps = [column, right + row, 2 * right + down - column]
    route = np.lexsort((np.select(sides, steps, 2 * (right + down) - row), ring))
    return route, (height - 1 - route // width) * width + route % width


def _raster(height: int, width: int) -> tuple[IntArray, IntArray]:
    """Row by row; and column by column."""
    positions = np.arange(height * width)
    return positions, positions.reshape(height, width).T.ravel()


def _grid(height: int, width: int) -> tuple[IntArray, IntArray]:
    positions = np.arange(height * width)
    return positions // width, positions % width


_PAIRS: dict[Shape, Callable[[int, int], tuple[IntArray, IntArray]]] = {
    "snake": _snake,
    "diagonal": _diagonal,
    "spiral": _spiral,
    "raster": _raster,
}
