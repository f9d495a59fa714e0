"""Large-small convolution: a large kernel looks around, and decides how a small one mixes."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.norm import BatchNorm2d, GroupNorm
from ommatid.ops.dynamic_conv import dynamic_conv

LARGE, SMALL, GROUP = 7, 3, 8


class LargeSmallConv(nn.Module):
    """A 3x3 convolution whose kernels a 7x7 perception computes for every position: (B, H, W, C) -> (B, H, W, C).

    LSNet (arXiv 2503.23135). C / 8 groups of channels share kernels, which group norm keeps in bounds.
    Cost: H W (21 C^2 / 16 + 67 C / 2) multiply-adds.

    Args:
        dim: C, a multiple of 8.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden, self.groups = dim // 2, dim // GROUP
        self.perceive = nn.Sequential(
            ConvNorm(dim, hidden, 1, act=nn.ReLU()),
            ConvNorm(hidden, hidden, LARGE, groups=hidden),
            ConvNorm(hidden, hidden, 1, act=nn.ReLU()),
            Conv2d(hidden, SMALL**2 * self.groups, 1),
            GroupNorm(self.groups, SMALL**2 * self.groups),
        )
        self.norm = BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.perceive(x).unflatten(-1, (self.groups, SMALL**2)).transpose(-1, -2).contiguous()
        return self.norm(dynamic_conv(x, kernels))
