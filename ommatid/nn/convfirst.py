"""A bottleneck whose spatial convolution comes first, where channels are few; and its evaluation tile by tile."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.deploy import scale_output_
from ommatid.nn.mbconv import MBConv

Pointwise = Callable[[Tensor], Tensor]


class ConvFirst(nn.Module):
    """Grouped convolution, then an MLP at every position: (B, H, W, C_in) -> (B, H / s, W / s, C).

    "On the Efficiency of Convolutional Neural Networks" (arXiv 2404.03617): an `MBConv` whose spatial convolution sees
    the narrow input. There is no activation behind it. The residual connection is not in here: `Residual` adds it.
    Cost: H W (K^2 g C_in + C_in E + E C) / s^2 multiply-adds, with E = hidden and g = group_width.

    Args:
        in_dim: C_in. dim: C. hidden: E.
        kernel_size: K, odd. stride: s. group_width: channels of a group of the spatial convolution.
        act: between the two 1x1 convolutions.
    """

    def __init__(
        self, in_dim: int, dim: int, hidden: int, *, kernel_size: int, stride: int, group_width: int, act: nn.Module
    ) -> None:
        super().__init__()
        self.conv = ConvNorm(in_dim, in_dim, kernel_size, stride=stride, groups=in_dim // group_width)
        self.expand = ConvNorm(in_dim, hidden, 1, act=act)
        self.reduce = ConvNorm(hidden, dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.reduce(self.expand(self.conv(features)))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.reduce.conv, scale)


def in_tiles(block: ConvFirst | MBConv, features: Tensor, tile: int) -> Tensor:
    """block(features), evaluated for `tile` x `tile` positions of the answer at a time.

    The wide maps inside never exist as a whole: they take the memory of one tile. Halos are computed twice. An MBConv
    must have no gate, which would have to see the whole map.
    """
    before: Pointwise = block.expand if isinstance(block, MBConv) else nn.Identity()
    after: Pointwise = block.reduce if isinstance(block, MBConv) else nn.Sequential(block.expand, block.reduce)
    height, width = (_strided(side, block.conv.conv) for side in features.shape[1:3])
    rows = [
        torch.cat([after(_tile(block.conv, before, features, y, x, tile)) for x in range(0, width, tile)], dim=2)
        for y in range(0, height, tile)
    ]
    return torch.cat(rows, dim=1)[:, :height, :width]


def _tile(spatial: ConvNorm, before: Pointwise, features: Tensor, y: int, x: int, tile: int) -> Tensor:
    """What the spatial convolution gives for the tile at (y, x) of its answer; past the end, for zeros."""
    conv = spatial.conv
    kernel, stride, pad = conv.kernel_size[0], conv.stride[0], conv.kernel_size[0] // 2
    spans = []
    for start, side in ((y, features.shape[1]), (x, features.shape[2])):
        first, last = start * stride - pad, (start + tile - 1) * stride - pad + kernel
        spans.append((max(first, 0), min(last, side), max(-first, 0), max(last - side, 0)))
    (top, bottom, above, below), (left, right, leftwards, rightwards) = spans
    # Zeros are added behind the expansion: what it would make of them is not zero.
    patch = F.pad(before(features[:, top:bottom, left:right]), (0, 0, leftwards, rightwards, above, below))
    filtered = F.conv2d(patch.permute(0, 3, 1, 2), conv.weight, conv.bias, conv.stride, groups=conv.groups)
    return spatial.act(spatial.norm(filtered.permute(0, 2, 3, 1)))


def _strided(side: int, conv: nn.Conv2d) -> int:
    return (side + 2 * (conv.kernel_size[0] // 2) - conv.kernel_size[0]) // conv.stride[0] + 1
