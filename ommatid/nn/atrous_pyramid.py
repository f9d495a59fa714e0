"""Atrous spatial pyramid pooling: one map seen by convolutions of several reaches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.image_pool import ImagePool


class AtrousPyramid(nn.Module):
    """A 1x1 or 3x3 convolution for each dilation, side by side, then a 3x3 one: (B, H, W, C) -> (B, H, W, D).

    "Rethinking Atrous Convolution for Semantic Image Segmentation" (arXiv 1706.05587), batch norm and ReLU behind all.

    Args:
        in_dim: C.
        dim: D.
        dilations: in cells; 1 stands for a 1x1 convolution.
        separable: whether the others are depthwise, with a 1x1 convolution behind them.
        pool: whether the mean of the map is one more branch, in front of the others.
    """

    def __init__(self, in_dim: int, dim: int, dilations: Sequence[int], *, separable: bool, pool: bool) -> None:
        super().__init__()
        self.pool = ImagePool(in_dim, dim) if pool else None
        self.branches = nn.ModuleList(branch(in_dim, dim, dilation, separable=separable) for dilation in dilations)
        self.fuse = ConvNorm((len(dilations) + pool) * dim, dim, 3, act=nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        seen = [look(x) for look in self.branches]
        if self.pool is not None:
            seen.insert(0, self.pool(x).expand_as(seen[0]))
        return self.fuse(torch.cat(seen, dim=-1))


def branch(in_dim: int, dim: int, dilation: int, *, separable: bool) -> nn.Module:
    if dilation == 1:
        return ConvNorm(in_dim, dim, 1, act=nn.ReLU())
    if not separable:
        return ConvNorm(in_dim, dim, 3, dilation=dilation, act=nn.ReLU())
    depthwise = ConvNorm(in_dim, in_dim, 3, dilation=dilation, groups=in_dim, act=nn.ReLU())
    return nn.Sequential(depthwise, ConvNorm(in_dim, dim, 1, act=nn.ReLU()))
