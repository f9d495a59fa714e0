"""The pixel decoder of kMaX-DeepLab: bottleneck blocks with axial attention, coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.axial_attention import AxialAttention
from ommatid.nn.conv import ConvNorm
from ommatid.nn.norm import LayerNorm

EPS = 1e-3
"""Of all batch norms."""

PixelBlock = Literal["axial", "bottleneck"]

EXPANSION = 4
"""A block of width b gives 4 b channels."""


class BottleneckBlock(nn.Module):
    """Narrow, mix, widen, with a shortcut: (B, H, W, C) -> (B, H, W, 4 dim). The activation comes first.

    Args:
        in_dim: C.
        dim: of the narrow part; attention works at twice of it.
        kind: "axial" mixes along columns, then rows; "bottleneck" by a 3x3 convolution.
    """

    def __init__(self, in_dim: int, dim: int, kind: PixelBlock) -> None:
        super().__init__()
        out_dim, inner = EXPANSION * dim, 2 * dim if kind == "axial" else dim
        self.shortcut = ConvNorm(in_dim, out_dim, 1, eps=EPS) if in_dim != out_dim else nn.Identity()
        self.narrow = ConvNorm(in_dim, inner, 1, act=nn.GELU(), eps=EPS)
        self.mix = axial_attention(dim) if kind == "axial" else ConvNorm(dim, dim, 3, act=nn.GELU(), eps=EPS)
        self.widen = ConvNorm(inner, out_dim, 1, eps=EPS, scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(x)
        return self.widen(self.mix(self.narrow(x))) + self.shortcut(x)


def axial_attention(dim: int) -> nn.Sequential:
    """Attention along columns, then rows: (B, H, W, 2 dim) -> (B, H, W, 2 dim)."""
    columns, rows = (AxialAttention(2 * dim, dim, axis=axis, eps=EPS) for axis in ("height", "width"))
    return nn.Sequential(columns, rows, nn.GELU())


class ResizedFuse(nn.Module):
    """The sum of a coarse and a fine map, both brought to one width: (B, h, w, C_low), (B, H, W, C_high) -> dim.

    Corners stay corners where the coarse map has an odd width, as it has in images made of whole strides and one pixel.
    """

    def __init__(self, low_dim: int, high_dim: int, dim: int) -> None:
        super().__init__()
        self.low = nn.Sequential(nn.GELU(), ConvNorm(low_dim, dim, 1, eps=EPS)) if low_dim != dim else nn.Identity()
        self.high = nn.Sequential(nn.GELU(), ConvNorm(high_dim, dim, 1, eps=EPS)) if high_dim != dim else nn.Identity()

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        aligned = low.shape[2] % 2 == 1
        resized = F.interpolate(
            self.low(low).permute(0, 3, 1, 2), size=high.shape[1:3], mode="bilinear", align_corners=aligned
        )
        return resized.permute(0, 2, 3, 1) + self.high(high)


class AxialPixels(nn.Module):
    """Maps fine to coarse, (B, H_i, W_i, C_i) -> four maps coarse to fine, of 4 dims[i] channels.

    "k-means Mask Transformer" (arXiv 2207.04044).

    Args:
        channels: C_i of the four maps, fine to coarse.
        dims, depths, blocks: width, number and kind of the blocks at each map, coarse to fine; widths of axial ones are
            multiples of 8.
    """

    def __init__(
        self, channels: Sequence[int], dims: Sequence[int], depths: Sequence[int], blocks: Sequence[PixelBlock]
    ) -> None:
        super().__init__()
        coarse_first = list(reversed(channels))
        self.norms = nn.ModuleList(LayerNorm(width) for width in coarse_first)
        self.fuses = nn.ModuleList(
            ResizedFuse(EXPANSION * above, width, dim)
            for above, dim, width in zip(dims, dims[1:], coarse_first[1:], strict=False)
        )
        in_dims = [coarse_first[0], *dims[1:]]
        self.stages = nn.ModuleList(
            nn.Sequential(*(BottleneckBlock(EXPANSION * dim if index else in_dim, dim, kind) for index in range(depth)))
            for in_dim, dim, depth, kind in zip(in_dims, dims, depths, blocks, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        coarse_first = [norm(level) for norm, level in zip(self.norms, reversed(maps), strict=True)]
        outs = [self.stages[0](coarse_first[0])]
        for fuse, stage, level in zip(self.fuses, self.stages[1:], coarse_first[1:], strict=True):
            outs.append(stage(fuse(outs[-1], level)))
        return outs
