"""UPerNet: a feature pyramid network under a pyramid of pooled context, all levels fused."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.decoders.top_down import FeaturePyramidNetwork, normed_conv
from ommatid.ops.resize import resample


class PyramidPooling(nn.Module):
    """A map beside averages of itself over coarse grids: (B, H, W, C) -> (B, H, W, dim).

    "Pyramid Scene Parsing Network" (arXiv 1612.01105).

    Args:
        in_dim: C.
        dim: width of the answer and of each grid.
        pool_sizes: sides of the grids.
    """

    def __init__(self, in_dim: int, dim: int, pool_sizes: Sequence[int]) -> None:
        super().__init__()
        self.pool_sizes = tuple(pool_sizes)
        # Without a norm over the map: the coarsest grid is one cell.
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(in_dim, dim), nn.LayerNorm(dim), nn.ReLU()) for _ in pool_sizes
        )
        self.fuse = normed_conv(in_dim + len(self.pool_sizes) * dim, dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        levels = [x]
        for side, project in zip(self.pool_sizes, self.projections, strict=True):
            pooled = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
            levels.append(resample(project(pooled), size, mode="bilinear"))
        return self.fuse(torch.cat(levels, dim=-1))


class UPerNet(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> (B, H_0, W_0, dim).

    "Unified Perceptual Parsing for Scene Understanding" (arXiv 1807.10221).

    Args:
        channels: C_i.
        dim: width of all levels.
        pool_sizes: sides of the grids that the coarsest map is pooled to.
    """

    def __init__(self, channels: Sequence[int], dim: int, *, pool_sizes: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.context = PyramidPooling(channels[-1], dim, pool_sizes)
        self.pyramid = FeaturePyramidNetwork([*channels[:-1], dim], dim, act=True)
        self.fuse = normed_conv(len(channels) * dim, dim, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = self.pyramid([*maps[:-1], self.context(maps[-1])])
        size = (levels[0].shape[1], levels[0].shape[2])
        return self.fuse(torch.cat([resample(level, size, mode="bilinear") for level in levels], dim=-1))
