"""Convolutions on channels-last maps."""

from __future__ import annotations

from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` for maps: (B, H, W, C) -> (B, H', W', C'), without copying either."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def depthwise_conv(dim: int, kernel_size: int, *, stride: int = 1, dilation: int = 1, bias: bool = True) -> Conv2d:
    """A convolution of every channel by itself, zero-padded so that stride 1 keeps the size; the kernel is odd."""
    padding = dilation * (kernel_size // 2)
    return Conv2d(dim, dim, kernel_size, stride=stride, padding=padding, dilation=dilation, groups=dim, bias=bias)
