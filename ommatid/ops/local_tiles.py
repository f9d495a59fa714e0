"""Cutting a map into overlapping tiles of one size, and averaging them where they overlap.

The test-time local converter of "Improving Image Restoration by Revisiting Global Information Aggregation" (arXiv
2112.04491): a part that sums over whole maps saw only small ones in training, and sees maps of that size again.

Programs are captured from this for maps of any size, so lengths are divided once only and all else is tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor


def tile_starts(length: int, tile: int) -> tuple[Tensor, Tensor]:
    """Where tiles of `tile` positions, at most `length`, begin on an axis: evenly, the last moved in to end with it.

    (tiles,), and (tiles,) bool: whether one is a new one. Where there are more than `tile`, the last may come again.
    """
    gaps, rest = (length - 1) // tile, torch.scalar_tensor(length - tile, dtype=torch.int64)
    step = (rest + gaps - 1) // gaps if gaps > 0 else rest
    numbers = torch.arange(gaps + 1)
    return torch.minimum(numbers * step, rest), (numbers == 0) | ((numbers - 1) * step < rest)


def cut_tiles(features: Tensor, side: int) -> Tensor:
    """(B, H, W, C) -> (B * tiles, rows, columns, C), tiles of `side` positions along each axis, or of all there are."""
    (rows, _), (columns, _) = (_positions(length, side, features.device) for length in features.shape[1:3])
    return features[:, rows][:, :, :, columns].transpose(2, 3).flatten(0, 2)


def average_tiles(tiles: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Undoes `cut_tiles`: (B * tiles, rows, columns, C) -> (B, H, W, C), of `size` (H, W); means where they overlap."""
    rows, columns = (_positions(length, side, tiles.device) for length in size)
    apart = tiles.unflatten(0, (-1, rows[0].shape[0], columns[0].shape[0])).transpose(2, 3)
    return _mean_along(2, _mean_along(1, apart, *rows, size[0]), *columns, size[1])


def _positions(length: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(tiles, side or length): the positions on an axis that every tile reads; and (tiles,): whether it is new."""
    tile = length if length <= side else side
    starts, new = tile_starts(length, tile)
    return (starts[:, None] + torch.arange(tile)).to(device), new.to(device)


def _mean_along(axis: int, tiles: Tensor, positions: Tensor, new: Tensor, length: int) -> Tensor:
    """Averages what tiles (..., tiles, side, ...), `axis` the first of the two, say of each of `length` positions.

    positions: (tiles, side). new: (tiles,), which of them count.
    """
    places = positions.flatten()
    weights = new[:, None].expand_as(positions).flatten().to(tiles.dtype)
    shares = weights / weights.new_zeros(length).index_add(0, places, weights)[places]
    repeated = tiles.flatten(axis, axis + 1) * shares.view(-1, *[1] * (tiles.dim() - axis - 2))
    sums = repeated.new_zeros(*repeated.shape[:axis], length, *repeated.shape[axis + 1 :])
    return sums.index_add(axis, places, repeated)
