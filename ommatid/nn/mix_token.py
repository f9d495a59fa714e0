"""MixToken: images of a batch exchange a box of their tokens, as in "All Tokens Matter" (arXiv 2104.10858)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Box(NamedTuple):
    """A rectangle of cells; top and left are inside, bottom and right just outside."""

    top: int
    left: int
    bottom: int
    right: int


def random_box(grid: tuple[int, int]) -> Box:
    """MixToken's box: a uniform share of the grid, centred anywhere, cut off at the borders."""
    side = (1 - torch.rand(()).item()) ** 0.5  # the share kept outside is Beta(1, 1), that is uniform
    edges = []
    for length in grid:
        half, centre = int(length * side) // 2, int(torch.randint(length, ()))
        edges.append((max(centre - half, 0), min(centre + half, length)))
    (top, bottom), (left, right) = edges
    return Box(top, left, bottom, right)


def exchange(features: Tensor, box: Box) -> Tensor:
    """Replaces a box of every map (B, H, W, C) by the same box of the map at the batch's other end."""
    height, width = features.shape[1:3]
    inside = F.pad(
        features.new_ones(box.bottom - box.top, box.right - box.left, dtype=torch.bool),
        (box.left, width - box.right, box.top, height - box.bottom),
    )
    return torch.where(inside[..., None], features.flip(0), features)
