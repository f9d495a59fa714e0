"""Tiles: how neighbourhoods around every token of a map become dense matrix products.

A map is cut into tiles of neighbouring queries, and a tile meets the one block of keys that covers all its windows.
A tile of T x T queries reads (T + K - 1)^2 keys instead of T^2 K^2, and nothing is gathered per query.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IntArray = NDArray[np.int64]

# At a border of the map a window moves inside, so that it always has K keys, or is cut off.
Border = Literal["inside", "cut"]


class AxisTiles(NamedTuple):
    """How one axis is cut into tiles of `T` queries and their blocks of `S` keys.

    Tiles are as long as the longest residue class asks for, so the last of a class may repeat its last query, and
    the block of a short class its last key.
    """

    queries: IntArray  # (tiles, T), positions on the axis
    keys: IntArray  # (tiles, S), positions on the axis
    relative: IntArray  # (tiles, T, S), key minus query of each pair, counted from 0; see `map_tiles`


class MapTiles(NamedTuple):
    """How a map is cut into tiles of `N` queries and their blocks of `M` keys; positions count row by row."""

    queries: IntArray  # (tiles, N), positions on the map
    keys: IntArray  # (tiles, M), positions on the map
    slots: IntArray  # (H * W), where in the flattened `queries` each position is answered
    vertical: IntArray  # `AxisTiles.relative` of the rows
    horizontal: IntArray  # and of the columns


def _axis_tiles(length: int, kernel: int, dilation: int, longest_tile: int, border: Border) -> AxisTiles:
    longest = -(-length // dilation)
    count = -(-longest // longest_tile)
    tile = -(-longest // count)
    span = min(tile + kernel - 1, longest)

    residue = np.arange(dilation)[:, None, None]
    group = (length - residue + dilation - 1) // dilation
    first_query = tile * np.arange(count)[:, None]
    query = np.minimum(first_query + np.arange(tile), group - 1)  # (dilation, count, tile), ranks in the residue class
    first_key = np.clip(first_query - kernel // 2, 0, np.maximum(group - span, 0))
    key = first_key + np.arange(span)  # (dilation, count, span)

    start = (query - kernel // 2)[..., None]
    if border == "inside":
        start = np.clip(start, 0, (group - kernel)[..., None])
    farthest = kernel - 1 if border == "inside" else kernel // 2
    key_of_pair = key[:, :, None]
    inside = (start <= key_of_pair) & (key_of_pair < np.minimum(start + kernel, group[..., None]))
    relative = np.where(inside, key_of_pair - query[..., None] + farthest, 2 * farthest + 1)
    return AxisTiles(
        queries=(query * dilation + residue).reshape(-1, tile),
        keys=(np.minimum(key, group - 1) * dilation + residue).reshape(-1, span),
        relative=relative.reshape(-1, tile, span),
    )


# NumPy tables and not tensors: a cached tensor would stay a fake one when the first call is a torch.export trace.
@lru_cache(maxsize=64)
def map_tiles(
    size: tuple[int, int], kernels: tuple[int, ...], dilations: tuple[int, ...], border: Border = "inside"
) -> MapTiles:
    """The tiles of a map with windows of `kernels` tokens, `dilations` apart.

    Pairs are numbered by their offset, along each axis from 0 for the farthest key before the query: to 2K - 2 with
    windows that move inside, to K - 1 with windows that are cut off. The number after that is for keys outside.
    """
    axes = zip(size, kernels, dilations, _longest_tiles(kernels), strict=True)
    rows, columns = (_axis_tiles(*axis, border) for axis in axes)

    def positions(row: IntArray, column: IntArray) -> IntArray:
        position = row[:, None, :, None] * size[1] + column[:, None]
        return position.reshape(len(row) * len(column), -1)

    queries = positions(rows.queries, columns.queries)
    slots = np.empty(size[0] * size[1], dtype=np.int64)
    slots[queries.ravel()] = np.arange(queries.size)
    return MapTiles(queries, positions(rows.keys, columns.keys), slots, rows.relative, columns.relative)


def _longest_tiles(kernels: tuple[int, ...]) -> tuple[int, ...]:
    """Longest tile along each axis: the fastest of 3 to 14 (in one dimension of 8 to 64), measured on a CPU.

    Short tiles read fewer keys only to mask them, long ones copy each key fewer times.
    """
    if 1 in kernels:
        return tuple(1 if kernel == 1 else 16 for kernel in kernels)
    return (4, 4) if max(kernels) <= 5 else (8, 8)


def take(x: Tensor, positions: IntArray) -> Tensor:
    """(B, H, W, heads, d) -> (B, heads, positions, d), contiguous."""
    index = torch.as_tensor(positions, device=x.device).flatten()
    return x.flatten(1, 2).transpose(1, 2).index_select(2, index)
