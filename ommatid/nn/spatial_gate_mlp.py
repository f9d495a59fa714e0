"""A channel mixer in which half of the channels, convolved, gate the other half."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.nn.deploy import scale_output_
from ommatid.ops.slices import in_slices


class SpatialGateMLP(nn.Module):
    """MLP whose hidden channels are a half times a 3x3 depthwise convolution of the other: (B, H, W, C) -> the same.

    "Dual Aggregation Transformer for Image Super-Resolution" (arXiv 2308.03364). Cost: H W (1.5 r C^2 + 4.5 r C)
    multiply-adds, with r = hidden / C.

    Args:
        dim: C.
        hidden: width of both halves together; even.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        half = hidden // 2
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.norm = nn.LayerNorm(half)
        self.conv = depthwise_conv(half, 3)
        self.fc2 = nn.Linear(half, dim)

    def forward(self, x: Tensor) -> Tensor:
        return in_slices(self._images, x)

    def _images(self, x: Tensor) -> Tensor:
        content, gate = self.act(self.fc1(x)).chunk(2, dim=-1)
        return self.fc2(content * self.conv(self.norm(gate)))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.fc2, scale)
