"""Inverted bottlenecks: narrow outside, wide inside, where the spatial convolution is."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.deploy import scale_output_


class MBConv(nn.Module):
    """1x1 convolution, depthwise convolution, gate, 1x1 convolution: (B, H, W, C_in) -> (B, H / s, W / s, C).

    The inverted bottleneck of MobileNetV2 (arXiv 1801.04381), with squeeze-and-excitation as in EfficientNet
    (arXiv 1905.11946). The residual connection is not in here: `Residual` adds it.
    Cost: H W (C_in E + (K^2 g E + E C) / s^2) multiply-adds, with E = hidden and g = group_width.

    Args:
        in_dim: C_in.
        dim: C.
        hidden: E.
        kernel_size: K, odd.
        stride: s, of the depthwise convolution.
        group_width: channels of a group of that convolution; 1 where it is depthwise.
        padding: "same" for TensorFlow's; symmetric, sides rounding up, where None.
        act: behind the first two convolutions.
        gate: in front of the last convolution, such as a `SqueezeExcite`; None for none.
        norms: whether each of the three convolutions has a batch norm behind it; those without have a bias.
        eps: of the batch norms.
        scale: that the last batch norm starts with.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        hidden: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        group_width: int = 1,
        padding: Literal["same"] | None = None,
        act: nn.Module,
        gate: nn.Module | None = None,
        norms: tuple[bool, bool, bool] = (True, True, True),
        eps: float = 1e-5,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        first, second, last = (None if norm else nn.Identity() for norm in norms)
        self.expand = ConvNorm(in_dim, hidden, 1, norm=first, bias=not norms[0], act=act, eps=eps)
        self.conv = ConvNorm(
            hidden,
            hidden,
            kernel_size,
            stride=stride,
            padding=padding,
            groups=hidden // group_width,
            norm=second,
            bias=not norms[1],
            act=act,
            eps=eps,
        )
        self.gate = gate or nn.Identity()
        self.reduce = ConvNorm(hidden, dim, 1, norm=last, bias=not norms[2], eps=eps, scale=scale)

    def forward(self, features: Tensor) -> Tensor:
        return self.reduce(self.gate(self.conv(self.expand(features))))

    def input_layers(self) -> tuple[nn.Module, ...]:
        """What alone reads the input, so that a constant scale and shift of it can be folded in."""
        return (self.expand.conv,)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.reduce.conv, scale)


class FusedMBConv(nn.Module):
    """`MBConv` whose first two convolutions are one, not depthwise: (B, H, W, C_in) -> (B, H / s, W / s, C).

    From EfficientNetV2 (arXiv 2104.00298). Cost: H W (K^2 C_in E + E C) / s^2 multiply-adds.

    Args:
        in_dim, dim, hidden, kernel_size, stride, act, scale: as in `MBConv`.
        bias: of the first convolution.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        hidden: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        act: nn.Module,
        bias: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.conv = ConvNorm(in_dim, hidden, kernel_size, stride=stride, bias=bias, act=act)
        self.reduce = ConvNorm(hidden, dim, 1, scale=scale)

    def forward(self, features: Tensor) -> Tensor:
        return self.reduce(self.conv(features))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.reduce.conv, scale)
