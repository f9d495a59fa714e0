"""The all-MLP decoder of SegFormer: every level to one width, side by side at the finest resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.ops.resize import resample


class JoinedLevels(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> (B, H_0, W_0, D): all at one width and resolution, then fused.

    Args:
        channels: C_i.
        dim: width of each of the n levels.
        fuse: (B, H_0, W_0, n dim) -> (B, H_0, W_0, D).
    """

    def __init__(self, channels: Sequence[int], dim: int, fuse: nn.Module) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(width, dim) for width in channels)
        self.fuse = fuse

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = (maps[0].shape[1], maps[0].shape[2])
        levels = [
            resample(project(level), size, mode="bilinear")
            for project, level in zip(self.projections, maps, strict=True)
        ]
        return self.fuse(torch.cat(levels, dim=-1))


def all_mlp(channels: Sequence[int], dim: int) -> JoinedLevels:
    """Maps (B, H_i, W_i, C_i), fine to coarse -> (B, H_0, W_0, dim).

    "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers" (arXiv 2105.15203).
    Cost: H_0 W_0 n dim^2 multiply-adds for n levels, and the linear layers of the levels.
    """
    return JoinedLevels(channels, dim, ConvNorm(len(channels) * dim, dim, 1, act=nn.ReLU()))
