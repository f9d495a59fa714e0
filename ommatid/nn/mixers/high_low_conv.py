"""High-low convolution: one branch for details, one with a wide view for what is smooth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.deploy import scale_output_
from ommatid.nn.squeeze_excite import SqueezeExcite


class HighLowConv(nn.Module):
    """Two branches of 3x3 convolutions, plain and dilated, with squeeze-and-excitation: (B, H, W, C) -> (B, H, W, C).

    The spatial mixer of SpaRTAN (arXiv 2507.10999). What departs from the map's mean is amplified first.
    Cost: H W (3 C^2 / 2 + 27 C^2 / 4) multiply-adds, or H W (3 C^2 / 2 + 27 C / 2) with depthwise convolutions.

    Args:
        dim: C, even and at least 8.
        depthwise: whether the 3x3 convolutions are depthwise.
        eps: of the batch norms.
    """

    def __init__(self, dim: int, *, depthwise: bool, eps: float = 1e-5) -> None:
        super().__init__()
        half = dim // 2
        groups = half if depthwise else 1
        self.proj_in = nn.Linear(dim, half)
        self.gamma = nn.Parameter(torch.full((half,), 1e-5))
        self.high = nn.Sequential(
            ConvNorm(half, half, 3, groups=groups, act=nn.GELU(), eps=eps), SqueezeExcite(half, half // 4)
        )
        self.low = nn.Sequential(
            Conv2d(half, half, 3, padding=2, dilation=2, groups=groups, bias=False),
            ConvNorm(half, half, 3, dilation=2, groups=groups, act=nn.GELU(), eps=eps),
            SqueezeExcite(half, half // 4),
        )
        self.proj_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.proj_in(x)
        contrasted = narrow + self.gamma * (narrow - narrow.mean((1, 2), keepdim=True))
        return self.proj_out(torch.cat([self.high(contrasted), self.low(contrasted)], dim=-1))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj_out, scale)
