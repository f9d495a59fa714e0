"""A map read as sequences along several directions, and sequences put back on the map.

The directions of VMamba (arXiv 2401.10166): "right" is row by row, "down" column by column, "left" and "up" are those
two read backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Direction = Literal["right", "down", "left", "up"]


def cross_scan(features: Tensor, directions: Sequence[Direction]) -> Tensor:
    """(B, H, W, C) -> (B, K, H * W, C), one sequence for each of the K directions."""
    columns = features.transpose(1, 2)
    sequences = [(columns if along in ("down", "up") else features).flatten(1, 2) for along in directions]
    turned = [x.flip(1) if along in ("left", "up") else x for x, along in zip(sequences, directions, strict=True)]
    return torch.stack(turned, dim=1)


def cross_merge(sequences: Tensor, size: tuple[int, int], directions: Sequence[Direction]) -> Tensor:
    """(B, K, H * W, C) -> (B, H, W, C): what belongs to each position, summed over the directions; size is (H, W)."""
    maps = []
    for sequence, along in zip(sequences.unbind(1), directions, strict=True):
        forwards = sequence.flip(1) if along in ("left", "up") else sequence
        upright = along in ("right", "left")
        maps.append(forwards.unflatten(1, size) if upright else forwards.unflatten(1, size[::-1]).transpose(1, 2))
    return torch.stack(maps).sum(0) if len(maps) > 1 else maps[0].contiguous()
