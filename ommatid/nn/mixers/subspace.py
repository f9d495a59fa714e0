"""Subspace attention: each group of channels is weighted by one attention map of its own."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.pool import MaxPool2d


class SubspaceAttention(nn.Module):
    """Adds to every group of channels itself, weighted by a softmax over positions: (B, H, W, C) -> (B, H, W, C).

    ULSAM (arXiv 2006.15102). Cost: 3 H W C multiply-adds, whatever the number of groups.

    Args:
        dim: C.
        groups: number of groups of channels, each with one attention map; divides C.
    """

    def __init__(self, dim: int, groups: int = 4) -> None:
        super().__init__()
        self.groups = groups
        self.channel = ConvNorm(dim, dim, 1, groups=dim, bias=True, act=nn.ReLU())
        self.pool = MaxPool2d(3, stride=1, padding=1)
        self.point = ConvNorm(dim, groups, 1, groups=groups, bias=True, act=nn.ReLU())
        for norm in (self.channel.norm, self.point.norm):
            assert isinstance(norm, nn.BatchNorm2d)
            norm.momentum = 0.9

    def forward(self, x: Tensor) -> Tensor:
        scores = self.point(self.pool(self.channel(x)))
        attention = scores.flatten(1, 2).softmax(1).view(scores.shape)
        grouped = x.unflatten(-1, (self.groups, -1))
        return (grouped * (1 + attention.unsqueeze(-1))).flatten(-2)
