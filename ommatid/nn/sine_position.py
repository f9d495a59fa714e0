"""Positions as waves: what a cell's row and column look like at many wavelengths."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_position(rows: int, columns: int, dim: int, device: torch.device | None = None) -> Tensor:
    """(rows, columns, dim): half of the channels for the row, half for the column, sines and cosines in turn.

    Sides are scaled to 2 pi, wavelengths grow up to 10000 times that. From DETR (arXiv 2005.12872); float32.

    Raises:
        ValueError: dim is odd.
    """
    if dim % 2:
        raise ValueError(f"dim = {dim} is not possible: allowed is an even number of channels")
    y, x = (
        waves((torch.arange(1, side + 1, device=device) / (side + 1e-6)) * 2 * math.pi, dim // 2)
        for side in (rows, columns)
    )
    return torch.cat([y[:, None].expand(-1, columns, -1), x.expand(rows, -1, -1)], dim=-1)


def sine_position_within(valid: Tensor, dim: int) -> Tensor:
    """`sine_position` of maps that are only partly of an image: (B, rows, columns) booleans -> (B, rows, columns, dim).

    Rows and columns are counted over valid cells alone, along each line by itself.

    Raises:
        ValueError: dim is odd.
    """
    if dim % 2:
        raise ValueError(f"dim = {dim} is not possible: allowed is an even number of channels")
    counts = [valid.float().cumsum(axis) for axis in (1, 2)]
    lasts = [counts[0][:, -1:], counts[1][:, :, -1:]]
    places = [2 * math.pi * count / (last + 1e-6) for count, last in zip(counts, lasts, strict=True)]
    return torch.cat([waves(place, dim // 2) for place in places], dim=-1)


def waves(position: Tensor, dim: int) -> Tensor:
    """(...) -> (..., dim): sin(p / t) in even channels and cos(p / t) in odd ones, t = 10000^(2 floor(j / 2) / dim)."""
    channel = torch.arange(dim, device=position.device)
    phase = position[..., None] / 10000 ** (2 * (channel // 2) / dim)
    return torch.where(channel % 2 == 0, phase.sin(), phase.cos())


def sinusoids(length: int, dim: int) -> Tensor:
    """(length, dim): sines, then cosines, of p * 10000^(-2 i / dim) for i from 0 to dim / 2; dim is even.

    "Attention Is All You Need" (arXiv 1706.03762), its channels in another order.
    """
    frequencies = 10000 ** (-torch.arange(dim // 2, dtype=torch.float64, device="cpu") / (dim / 2))
    angles = torch.arange(length, dtype=torch.float64, device="cpu")[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def grid_sinusoids(rows: int, columns: int, dim: int) -> Tensor:
    """(rows, columns, dim): `sinusoids` of the column in the first half, of the row in the second; dim is 4 n.

    From MAE (arXiv 2111.06377).
    """
    by_column, by_row = sinusoids(columns, dim // 2), sinusoids(rows, dim // 2)
    return torch.cat([by_column.expand(rows, -1, -1), by_row[:, None].expand(-1, columns, -1)], dim=-1)


def split_waves(position: Tensor, dim: int) -> Tensor:
    """(...) -> (..., dim): `waves` with all sines first, then all cosines."""
    code = waves(position, dim)
    return torch.cat([code[..., 0::2], code[..., 1::2]], -1)


def spread_waves(length: int, dim: int, span: float = 1000.0) -> Tensor:
    """(length, dim): `split_waves` of positions spread evenly from 0 to `span`.

    Raises:
        ValueError: there is one position only, which has no place between the two.
    """
    if length < 2:
        raise ValueError(f"{length} position is not possible: allowed is 2 or more to spread")
    return split_waves(torch.arange(length) / (length - 1) * span, dim)


def spread_waves_2d(rows: int, columns: int, dim: int, span: float = 1000.0) -> Tensor:
    """(rows * columns, dim): `spread_waves` of the row in the first half of the channels, of the column in the second.

    Raises:
        ValueError: a single row or column.
    """
    row, column = spread_waves(rows, dim // 2, span), spread_waves(columns, dim - dim // 2, span)
    return torch.cat([row[:, None].expand(-1, columns, -1), column.expand(rows, -1, -1)], -1).flatten(0, 1)
