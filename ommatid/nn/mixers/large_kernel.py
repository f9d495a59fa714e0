"""Large kernel attention: a gate that sees far, computed by three thin convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv


class LargeKernelAttention(nn.Module):
    """Multiplies features with a large-kernel convolution of themselves, and adds the input: (B, H, W, C) -> the same.

    VAN (arXiv 2202.09741). The 21x21 kernel is decomposed into a 5x5 depthwise convolution, a 7x7 depthwise one with
    dilation 3, and a 1x1 convolution; its answer is the gate, without any squashing.
    Cost: H W (3 C^2 + 74 C) multiply-adds.

    Args:
        dim: C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, dim)
        self.act = nn.GELU()
        self.gate = nn.Sequential(depthwise_conv(dim, 5), depthwise_conv(dim, 7, dilation=3), nn.Linear(dim, dim))
        self.proj_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        value = self.act(self.proj_in(x))
        return self.proj_out(value * self.gate(value)) + x
