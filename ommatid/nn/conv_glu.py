"""Convolutional GLUs: gated channel mixers whose gate sees the neighbours."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.nn.deploy import scale_output_
from ommatid.ops.slices import in_slices


class ConvGLU(nn.Module):
    """GELU of a 3x3 depthwise convolution of one projection, times another: (B, H, W, C) -> (B, H, W, C).

    TransNeXt (arXiv 2311.17132). Cost: H W (3 r C^2 + 9 r C) multiply-adds, with r = hidden / C.

    Args:
        dim: C.
        hidden: width of each projection.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden)
        self.conv = depthwise_conv(hidden, 3)
        self.act = nn.GELU()
        self.value = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return in_slices(self._images, x)

    def _images(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.conv(self.gate(x))) * self.value(x))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.fc2, scale)


class GatedConvMLP(nn.Module):
    """GELU of one half times the other, both 3x3 depthwise convolutions of a projection: (B, H, W, C) -> (B, H, W, C).

    The gated-Dconv feed-forward network of Restormer (arXiv 2111.09881). Cost: H W (3 r C^2 + 18 r C) multiply-adds,
    with r = hidden / C.

    Args:
        dim: C.
        hidden: width of each half.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden, bias=False)
        self.conv = depthwise_conv(2 * hidden, 3, bias=False)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return in_slices(self._images, x)

    def _images(self, x: Tensor) -> Tensor:
        gate, value = self.conv(self.fc1(x)).chunk(2, dim=-1)
        return self.fc2(self.act(gate) * value)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.fc2, scale)
