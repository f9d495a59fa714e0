"""Rotary positions: every pair of channels is turned by an angle that grows with the token's position."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def rotate_by_position(x: Tensor, base: float = 10000.0) -> Tensor:
    """Turns channel pair i, (2 i, 2 i + 1), of token p by the angle p * base^(-2 i / d): (B, N, heads, d) -> the same.

    RoFormer (arXiv 2104.09864).
    """
    tokens, channels = x.shape[1], x.shape[-1]
    frequencies = base ** (-torch.arange(0, channels, 2, device=x.device) / channels)
    angles = (torch.arange(tokens, device=x.device)[:, None] * frequencies)[:, None]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def rotate_halves(x: Tensor, *, width: int | None = None, base: float = 10000.0) -> Tensor:
    """Turns channel pair i, (i, i + w / 2), of token p by the angle p * base^(-2 i / w): (B, N, heads, d) -> the same.

    Args:
        x: queries or keys.
        width: w, how many channels are turned, the first ones; even, and all of them where None.
        base: of the frequencies.
    """
    turned, rest = x.split([width, x.shape[-1] - width], dim=-1) if width is not None else (x, x[..., :0])
    pairs = turned.shape[-1] // 2
    frequencies = base ** (-torch.arange(pairs, device=x.device) / max(pairs, 1))
    angles = (torch.arange(x.shape[1], device=x.device)[:, None] * frequencies)[:, None]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = turned.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


class GridRotation(NamedTuple):
    """Cosines and sines of a quarter of d angles for the row and as many for the column: (..., N, 1, 2, d / 4) each."""

    cos: Tensor
    sin: Tensor


def grid_rotation(positions: Tensor, head_dim: int, base: float) -> GridRotation:
    """How tokens at (row, column) are turned: position * base^(-4 i / d), i from 0 to d / 4.

    Args:
        positions: (..., N, 2).
        head_dim: d, a multiple of 4.
        base: of the frequencies.
    """
    pairs = head_dim // 4
    frequencies = base ** (-torch.arange(pairs, device=positions.device) / pairs)
    angles = (positions[..., None] * frequencies).unsqueeze(-3)
    return GridRotation(angles.cos(), angles.sin())


def grid_positions(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """(rows * columns, 2): row and column of every cell, row-major."""
    return torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))


def rotate_grid_halves(x: Tensor, rotation: GridRotation) -> Tensor:
    """Turns half of the channels by the row and half by the column: (B, N, heads, d) -> the same.

    In each half, of width w = d / 2, channels i and i + w / 2 are a pair.
    """
    first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)
    return torch.stack(_turned(first, second, rotation), dim=-2).flatten(-3)


def rotate_grid_neighbours(x: Tensor, rotation: GridRotation) -> Tensor:
    """The same, channels 2 i and 2 i + 1 of each half being a pair."""
    first, second = x.unflatten(-1, (2, -1, 2)).unbind(-1)
    return torch.stack(_turned(first, second, rotation), dim=-1).flatten(-3)


def _turned(first: Tensor, second: Tensor, rotation: GridRotation) -> tuple[Tensor, Tensor]:
    cos, sin = rotation.cos.to(first.dtype), rotation.sin.to(first.dtype)
    return first * cos - second * sin, second * cos + first * sin


def rotate_on_grid(x: Tensor, positions: Tensor, base: float = 100.0) -> Tensor:
    """`rotate_grid_halves` of tokens at these positions (N, 2): (B, N, heads, d) -> the same; d is a multiple of 4."""
    return rotate_grid_halves(x, grid_rotation(positions, x.shape[-1], base))
