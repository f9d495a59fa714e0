"""The up-head of FFNet: a small feature pyramid network, and what reads it.

"Simple and Efficient Architectures for Semantic Segmentation" (arXiv 2206.08236).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.resnet import bottleneck_block
from ommatid.ops.resize import resample

Resize = Literal["bilinear", "nearest"]

BASE_DIMS: dict[str, tuple[int, int, int, int]] = {
    "A": (64, 128, 256, 512),
    "B": (64, 128, 128, 256),
    "C": (128, 128, 128, 128),
}
"""Widths that the maps are brought to at first, fine to coarse."""

OUT_DIMS: dict[str, tuple[int, int, int, int]] = {
    "A": (128, 128, 128, 128),
    "B": (96, 96, 64, 32),
    "C": (128, 16, 16, 16),
}
"""Widths of the answers, fine to coarse."""

PIXEL_DIMS: dict[str, int] = {"A": 512, "B": 256, "C": 128}
"""Width inside the segmentation head."""

IMAGE_DIMS = (128, 256, 512, 1024)
"""Widths of the maps in the classification head, fine to coarse."""

EMBED_DIM = 2048


class UpHead(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> as many (B, H_i, W_i, D_i), D being `OUT_DIMS`.

    Args:
        channels: C_i of four maps.
        kind: of the widths.
        resize: how coarse maps are enlarged; bilinear keeps corners where they are.
    """

    def __init__(self, channels: Sequence[int], kind: str, resize: Resize) -> None:
        super().__init__()
        base, self.resize = BASE_DIMS[kind], resize
        self.adapters = nn.ModuleList(
            ConvNorm(width, dim, 1, act=nn.ReLU()) for width, dim in zip(channels, base, strict=True)
        )
        self.smoothing = nn.ModuleList(
            ConvNorm(dim, out_dim, 3, act=nn.ReLU()) for dim, out_dim in zip(base, OUT_DIMS[kind], strict=True)
        )
        self.handing = nn.ModuleList(ConvNorm(coarse, fine, 1, act=nn.ReLU()) for fine, coarse in pairwise(base))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = [adapt(level) for adapt, level in zip(self.adapters, maps, strict=True)]
        for index in reversed(range(len(self.handing))):
            handed = self.handing[index](levels[index + 1])
            levels[index] = enlarged(handed, levels[index], self.resize) + levels[index]
        return [smooth(level) for smooth, level in zip(self.smoothing, levels, strict=True)]


class PixelHead(nn.Module):
    """The answers of an up-head of kind `dims` -> (B, H_0, W_0, K)."""

    def __init__(self, dims: str, kind: str, num_classes: int, resize: Resize) -> None:
        super().__init__()
        width, self.resize = PIXEL_DIMS[kind], resize
        self.fuse = ConvNorm(sum(OUT_DIMS[dims]), width, 3, bias=True, act=nn.ReLU())
        kernel_size = 3 if kind == "B" else 1
        self.classifier = Conv2d(width, num_classes, kernel_size, padding=kernel_size // 2)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.fuse(torch.cat([enlarged(level, levels[0], self.resize) for level in levels], -1)))


class ImageHead(nn.Module):
    """The answers of an up-head, from fine to coarse, as one vector: (B, H_i, W_i, D_i) -> (B, 2048)."""

    def __init__(self, dims: str) -> None:
        super().__init__()
        self.widen = nn.ModuleList(
            bottleneck_block(width, dim) for width, dim in zip(OUT_DIMS[dims], IMAGE_DIMS, strict=True)
        )
        self.reduce = nn.ModuleList(
            ConvNorm(fine, coarse, 3, stride=2, bias=True, act=nn.ReLU()) for fine, coarse in pairwise(IMAGE_DIMS)
        )
        self.proj = ConvNorm(IMAGE_DIMS[-1], EMBED_DIM, 1, bias=True, act=nn.ReLU())

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        first, *others = (widen(level) for widen, level in zip(self.widen, levels, strict=True))
        for reduce, level in zip(self.reduce, others, strict=True):
            first = level + reduce(first)
        return self.proj(first).mean((1, 2))


def enlarged(coarse: Tensor, fine: Tensor, resize: Resize) -> Tensor:
    """A map at the resolution of another."""
    return resample(coarse, (fine.shape[1], fine.shape[2]), mode=resize, align_corners=resize == "bilinear")
