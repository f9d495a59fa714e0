"""Multi-scale self-guided attention: what all scales say together guides attention at each of them, twice.

"Multi-scale self-guided attention for medical image segmentation" (arXiv 1906.02849).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ommatid.models.config import require
from ommatid.nn.conv import Conv2d, ConvNorm, ConvTranspose2d
from ommatid.nn.image_pool import PooledBatchNorm2d
from ommatid.nn.mixers.dual import REDUCTION, DualChannelAttention, DualPositionAttention
from ommatid.nn.pool import MaxPool2d
from ommatid.nn.residual import Residual
from ommatid.ops.resize import resample

MULTIPLE = 4
"""Of the sides of the finest map, which the semantic module halves twice."""


class StageOutput(NamedTuple):
    """What a stage gives of each level, fine to coarse; maps are as large as the finest.

    refined: (B, H, W, C). read, rebuilt: (B, H, W, 2 C), what the semantic module saw, and made of it. meaning:
    (B, h, w, 8 C), what it was on the way.
    """

    refined: list[Tensor]
    read: list[Tensor]
    rebuilt: list[Tensor]
    meaning: list[Tensor]


class Guided(NamedTuple):
    """The predictions (B, H, W, K) of each level, fine to coarse, before the stages and after; the two stages; and the
    common map of all levels, (B, H, W, C)."""

    first: list[Tensor]
    second: list[Tensor]
    stages: tuple[StageOutput, StageOutput]
    common: Tensor

    @property
    def logits(self) -> Tensor:
        """(B, H, W, K): the mean of the second predictions."""
        return torch.stack(self.second).mean(0)

    def losses(self) -> dict[str, Tensor]:
        """How far both stages differ in what levels mean, and the semantic modules from what they saw."""
        one, other = self.stages
        return {
            "semantic": torch.stack([squared(a, b) for a, b in zip(one.meaning, other.meaning, strict=True)]),
            "reconstruction": torch.stack(
                [squared(a, b) for stage in self.stages for a, b in zip(stage.read, stage.rebuilt, strict=True)]
            ),
        }


def squared(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().mean()


class SemanticModule(nn.Module):
    """Narrows a map to what it means, and rebuilds it: (B, H, W, 2 C) -> (B, H / 4, W / 4, 8 C) and (B, H, W, 2 C).

    Args:
        dim: C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            *two_convs(2 * dim, 4 * dim), MaxPool2d(2), *two_convs(4 * dim, 8 * dim), MaxPool2d(2)
        )
        self.decode = nn.Sequential(
            *two_convs(8 * dim, 4 * dim),
            ConvTranspose2d(4 * dim, 4 * dim, 2, stride=2),
            *two_convs(4 * dim, 2 * dim),
            ConvTranspose2d(2 * dim, 2 * dim, 2, stride=2),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        meaning = self.encode(x)
        return meaning, self.decode(meaning)


def two_convs(in_dim: int, dim: int) -> tuple[ConvNorm, ConvNorm]:
    first, second = (ConvNorm(width, dim, 3, bias=True, act=nn.ReLU()) for width in (in_dim, dim))
    return first, second


def prelu_conv(in_dim: int, dim: int, kernel_size: int) -> ConvNorm:
    return ConvNorm(in_dim, dim, kernel_size, bias=True, act=nn.PReLU(), norm=PooledBatchNorm2d(dim))


class AttendedLevel(nn.Module):
    """One level of a stage: what attention to positions and to channels finds, where it means something.

    (B, H, W, 2 C) twice, the map and what the semantic module made of it -> (B, H, W, C).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.position, self.channel = (
            nn.Sequential(prelu_conv(2 * dim, dim, 3), Residual(dim, mixer, norm=nn.Identity), prelu_conv(dim, dim, 3))
            for mixer in (DualPositionAttention(dim), DualChannelAttention(dim))
        )
        self.semantic = Conv2d(2 * dim, dim, 3, padding=1)
        self.proj = Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, rebuilt: Tensor) -> Tensor:
        return self.proj((self.position(x) + self.channel(x)) * self.semantic(rebuilt))


class Stage(nn.Module):
    """Levels (B, H, W, C), each beside its guide -> what it makes of them. One semantic module serves all levels."""

    def __init__(self, dim: int, levels: int) -> None:
        super().__init__()
        self.semantic = SemanticModule(dim)
        self.levels = nn.ModuleList(AttendedLevel(dim) for _ in range(levels))

    def forward(self, levels: Sequence[Tensor], guides: Sequence[Tensor]) -> StageOutput:
        output = StageOutput([], [], [], [])
        for attended, level, guide in zip(self.levels, levels, guides, strict=True):
            read = torch.cat([level, guide], dim=-1)
            meaning, rebuilt = self.semantic(read)
            for found, value in zip(output, (attended(read, rebuilt), read, rebuilt, meaning), strict=True):
                found.append(value)
        return output


class GuidedAttention(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> predictions of each level, all at the resolution of the finest.

    Args:
        channels: C_i.
        dim: width of all levels.
        num_classes: K.

    Raises:
        ValueError: the finest map has a side that is no multiple of 4.
    """

    def __init__(self, channels: Sequence[int], dim: int, num_classes: int) -> None:
        super().__init__()
        levels = len(channels)
        self.down = nn.ModuleList(prelu_conv(width, dim, 1) for width in channels)
        self.fuse = nn.Sequential(prelu_conv(levels * dim, dim, 3), prelu_conv(dim, dim, 3), prelu_conv(dim, dim, 1))
        self.stages = nn.ModuleList(Stage(dim, levels) for _ in range(2))
        self.first, self.second = (nn.ModuleList(Conv2d(dim, num_classes, 1) for _ in channels) for _ in range(2))

    def forward(self, maps: Sequence[Tensor]) -> Guided:
        size = (maps[0].shape[1], maps[0].shape[2])
        whole = all(side % MULTIPLE == 0 for side in size)
        require(whole, "size of the finest map", size, f"multiples of {MULTIPLE}")
        levels = [resample(down(level), size, mode="bilinear") for down, level in zip(self.down, maps, strict=True)]
        common = self.fuse(torch.cat(levels[::-1], dim=-1))
        one = self.stages[0](levels, [common] * len(levels))
        other = self.stages[1](levels, [refined * common for refined in one.refined])
        first, second = (
            [predict(level) for predict, level in zip(heads, found, strict=True)]
            for heads, found in ((self.first, levels), (self.second, other.refined))
        )
        return Guided(first, second, (one, other), common)


def check_dim(name: str, dim: int) -> None:
    """Raises the ValueError that names a config's field, unless the width can be that of a `GuidedAttention`."""
    require(dim > 0 and dim % REDUCTION == 0, name, dim, f"a multiple of {REDUCTION}, for queries and keys")
