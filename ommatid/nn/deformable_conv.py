"""Deformable convolution: every position decides where the taps of its kernel lie, and how much each counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.conv import Conv2d
from ommatid.ops.deformable_conv import deformable_conv


class DeformableConv2d(nn.Module):
    """A 3x3 convolution without bias, its taps moved and weighed by another: (B, H, W, C) -> (B, H, W, D).

    "Deformable ConvNets v2: More Deformable, Better Results" (arXiv 1811.11168). At first no tap is moved, and each
    counts half. Cost: 9 H W (C D + 27 C) multiply-adds, and 36 H W C for the sampling.

    Args:
        in_dim: C.
        dim: D.
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.taps = 9
        self.offsets = Conv2d(in_dim, 3 * self.taps, 3, padding=1)
        self.weight = nn.Parameter(torch.empty(dim, in_dim, 3, 3))
        nn.init.zeros_(self.offsets.weight)
        if self.offsets.bias is not None:
            nn.init.zeros_(self.offsets.bias)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        moves, weights = self.offsets(x).split([2 * self.taps, self.taps], dim=-1)
        return deformable_conv(x, moves.unflatten(-1, (self.taps, 2)), weights.sigmoid(), self.weight)
