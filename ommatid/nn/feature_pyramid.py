"""A pyramid from whatever maps a backbone has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ommatid.nn.conv import ConvTranspose2d
from ommatid.nn.norm import LayerNorm
from ommatid.nn.pool import MaxPool2d
from ommatid.ops.resize import resample


class FeaturePyramid(nn.Module):
    """Maps of a backbone at other strides: list of (B, H_i, W_i, C_i) -> list of (B, H / s, W / s, C_s), normed.

    A stride that the backbone has is the last of its maps with it. Others are made from the map nearest in stride:
    finer ones by transposed convolutions that halve the width, coarser ones by pooling. Of the single map of a plain
    backbone this makes the simple feature pyramid of ViTDet (arXiv 2203.16527).

    Args:
        channels: C_i.
        strides: of the backbone's maps.
        targets: s, fine to coarse, powers of two.

    Attributes:
        channels: C_s.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], targets: Sequence[int]) -> None:
        super().__init__()
        self.targets = tuple(targets)
        self.sources = [nearest_stride(strides, target) for target in targets]
        steps = [doublings(strides[source], target) for source, target in zip(self.sources, targets, strict=True)]
        self.channels = tuple(
            max(channels[source] // 2 ** max(step, 0), 1) for source, step in zip(self.sources, steps, strict=True)
        )
        self.levels = nn.ModuleList(
            resolution_change(channels[source], step) for source, step in zip(self.sources, steps, strict=True)
        )
        self.norms = nn.ModuleList(LayerNorm(width) for width in self.channels)

    def forward(self, maps: Sequence[Tensor], image_size: tuple[int, int]) -> list[Tensor]:
        height, width = image_size
        return [
            norm(resample(level(maps[source]), (-(-height // target), -(-width // target)), mode="bilinear"))
            for source, level, norm, target in zip(self.sources, self.levels, self.norms, self.targets, strict=True)
        ]


def nearest_stride(strides: Sequence[int], target: int) -> int:
    """Index of the map nearest in stride, of several the last."""
    return min(reversed(range(len(strides))), key=lambda index: abs(math.log2(strides[index] / target)))


def doublings(stride: int, target: int) -> int:
    """How often the sides of a map of one stride are doubled for another; below 0 they are halved."""
    return round(math.log2(stride / target))


def resolution_change(dim: int, steps: int) -> nn.Module:
    """(B, H, W, C) -> sides times 2^steps, width C / 2^steps where that is less than C."""
    if steps <= 0:
        return MaxPool2d(2**-steps, stride=2**-steps, ceil_mode=True) if steps else nn.Identity()
    widths = [max(dim // 2**step, 1) for step in range(steps + 1)]
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [ConvTranspose2d(wide, narrow, 2, stride=2), LayerNorm(narrow), nn.GELU()]
    return nn.Sequential(*layers[:-2])
