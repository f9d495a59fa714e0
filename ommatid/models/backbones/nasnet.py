"""NASNet-A: two small graphs of separable convolutions and poolings, found by search and stacked into a network.

"Learning Transferable Architectures for Scalable Image Recognition" (arXiv 1707.07012).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_positive
from ommatid.models.reference import zero_based
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.conv import ConvNorm, SameConv2d, depthwise_conv
from ommatid.nn.pool import AvgPool2d, SameAvgPool2d, SameMaxPool2d

EPS = 1e-3
CELLS_PER_STAGE = 6


@dataclass(frozen=True, kw_only=True)
class NASNetConfig(Config):
    """`num_features` is the width of the last map. The reference drops no paths: `drop_path_rate` means nothing."""

    stem_size: int = 96
    channel_multiplier: int = 2
    num_features: int = 4032

    def check(self) -> None:
        require_positive(stem_size=self.stem_size)
        require(self.channel_multiplier == 2, "channel_multiplier", self.channel_multiplier, "2")
        divisible = self.num_features > 0 and self.num_features % 96 == 0
        require(divisible, "num_features", self.num_features, "a positive multiple of 96")

    @property
    def dim(self) -> int:
        """Width of the branches in the cells of the first stage; every stage doubles it."""
        return self.num_features // 24


@register("nasnet", NASNetConfig)
class NASNet(Backbone):
    """NASNet-A: each cell reads the two maps before it. Sides round up, but for the stem, which is not padded.

    The five maps are those of the stem, of the first of the two cells that follow, and of the three stages.
    """

    def __init__(self, config: NASNetConfig) -> None:
        super().__init__(config)
        stem_dim, dim = config.stem_size, config.dim
        self.channels, self.strides = (stem_dim, dim, 6 * dim, 12 * dim, 24 * dim), (2, 4, 8, 16, 32)
        self.stem = ConvNorm(config.in_channels, stem_dim, 3, stride=2, padding=0, eps=EPS)
        self.stem_cells = nn.ModuleList(
            [
                ReductionCell(stem_dim, nn.Identity(), stem_dim, dim // 4),
                ReductionCell(dim, FactorizedReduction(stem_dim, dim // 2), dim // 2, dim // 2),
            ]
        )
        self.reductions = nn.ModuleList(
            ReductionCell(6 * width, relu_conv(6 * width, 2 * width), 2 * width, 2 * width) for width in (dim, 2 * dim)
        )
        self.stages = nn.ModuleList(
            [
                CellStage(2 * dim, dim, dim),
                CellStage(8 * dim, 6 * dim, 2 * dim),
                CellStage(16 * dim, 12 * dim, 4 * dim),
            ]
        )
        self.head = classifier(config.num_features, config.num_classes)

    def maps(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, 3)
        half = self.stem(channels_last(image))
        quarter = self.stem_cells[0](half, half)
        maps, x, previous = [half, quarter], self.stem_cells[1](quarter, half), quarter
        for index, stage in enumerate(self.stages):
            if index:
                x = self.reductions[index - 1](x, previous)
            x, previous = stage(x, previous)
            maps.append(x)
        return [*maps[:-1], F.relu(maps[-1])]

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))


class CellStage(nn.Module):
    """Six cells in a row, each of which reads the two maps before it: two maps -> the last two maps.

    Args:
        in_dim: width of the map that the stage starts from.
        previous_dim: width of the map before that, which has twice the resolution.
        dim: width of the branches; the cells' outputs are 6 times as wide.
    """

    def __init__(self, in_dim: int, previous_dim: int, dim: int) -> None:
        super().__init__()
        first = NormalCell(in_dim, FactorizedReduction(previous_dim, dim), dim)
        second = NormalCell(6 * dim, relu_conv(in_dim, dim), dim)
        others = [NormalCell(6 * dim, relu_conv(6 * dim, dim), dim) for _ in range(CELLS_PER_STAGE - 2)]
        self.cells = nn.ModuleList([first, second, *others])

    def forward(self, x: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        for cell in self.cells:
            x, previous = cell(x, previous), x
        return x, previous


class NormalCell(nn.Module):
    """The searched graph that keeps the resolution: maps of width in_dim and before that -> (B, H, W, 6 dim).

    Args:
        in_dim: width of the current map, which branches on the right mostly read.
        previous: brings the map before it to its size and the width `dim`, for branches on the left.
        dim: width of each branch.
    """

    def __init__(self, in_dim: int, previous: nn.Module, dim: int) -> None:
        super().__init__()
        self.previous = previous
        self.current = relu_conv(in_dim, dim)
        self.average = AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.combine_0_left = separable_pair(dim, dim, 5)
        self.combine_0_right = separable_pair(dim, dim, 3)
        self.combine_1_left = separable_pair(dim, dim, 5)
        self.combine_1_right = separable_pair(dim, dim, 3)
        self.combine_4_left = separable_pair(dim, dim, 3)

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        left, right = self.previous(previous), self.current(x)
        combined = [
            self.combine_0_left(right) + self.combine_0_right(left),
            self.combine_1_left(left) + self.combine_1_right(left),
            self.average(right) + left,
            2 * self.average(left),
            self.combine_4_left(right) + right,
        ]
        return torch.cat([left, *combined], dim=-1)


class ReductionCell(nn.Module):
    """The searched graph that halves the resolution: (B, H, W, in_dim) and the map before -> (B, ..., 4 dim).

    Args:
        in_dim, previous, dim: as in `NormalCell`.
        previous_dim: the width that `previous` gives.
    """

    def __init__(self, in_dim: int, previous: nn.Module, previous_dim: int, dim: int) -> None:
        super().__init__()
        self.previous = previous
        self.current = relu_conv(in_dim, dim)
        self.max = SameMaxPool2d(3, stride=2)
        self.halving_average = SameAvgPool2d(3, stride=2)
        self.average = AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.combine_0_left = separable_pair(dim, dim, 5, stride=2)
        self.combine_0_right = separable_pair(previous_dim, dim, 7, stride=2)
        self.combine_1_right = separable_pair(previous_dim, dim, 7, stride=2)
        self.combine_2_right = separable_pair(previous_dim, dim, 5, stride=2)
        self.combine_4_left = separable_pair(dim, dim, 3)

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        left, right = self.previous(previous), self.current(x)
        strongest = self.max(right)
        mixed = self.combine_0_left(right) + self.combine_0_right(left)
        sharpened = strongest + self.combine_1_right(left)
        smoothed = self.halving_average(right) + self.combine_2_right(left)
        return torch.cat(
            [sharpened, smoothed, self.average(mixed) + sharpened, self.combine_4_left(mixed) + strongest], dim=-1
        )


class FactorizedReduction(nn.Module):
    """Halves a map by reading every other cell twice, even ones and odd ones: (B, H, W, C_in) -> (B, H/2, W/2, C).

    Each half of the channels is a 1x1 convolution with a batch norm of one set of cells. Sides round up.
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.even = ConvNorm(in_dim, dim // 2, 1, stride=2, eps=EPS)
        self.odd = ConvNorm(in_dim, dim // 2, 1, stride=2, eps=EPS)

    def forward(self, features: Tensor) -> Tensor:
        active = F.relu(features)
        shifted = F.pad(active[:, 1:, 1:], (0, 0, 0, 1, 0, 1))
        return torch.cat([self.even(active), self.odd(shifted)], dim=-1)


def relu_conv(in_dim: int, dim: int) -> nn.Sequential:
    """ReLU, 1x1 convolution, batch norm: (B, H, W, C_in) -> (B, H, W, C)."""
    return nn.Sequential(nn.ReLU(), ConvNorm(in_dim, dim, 1, eps=EPS))


def separable_pair(in_dim: int, dim: int, kernel_size: int, *, stride: int = 1) -> nn.Sequential:
    """Two separable convolutions, the first with the stride: (B, H, W, C_in) -> (B, ceil(H / stride), ..., C)."""
    return nn.Sequential(
        separable_conv(in_dim, dim, kernel_size, stride=stride), separable_conv(dim, dim, kernel_size, stride=1)
    )


def separable_conv(in_dim: int, dim: int, kernel_size: int, *, stride: int) -> nn.Sequential:
    """ReLU, depthwise and 1x1 convolution, batch norm: (B, H, W, C_in) -> (B, ceil(H / stride), ..., C)."""
    spatial = (
        depthwise_conv(in_dim, kernel_size, bias=False)
        if stride == 1
        else SameConv2d(in_dim, in_dim, kernel_size, stride=stride, groups=in_dim, bias=False)
    )
    return nn.Sequential(nn.ReLU(), spatial, ConvNorm(in_dim, dim, 1, eps=EPS))


VARIANTS = {"nasnetalarge": NASNetConfig()}

REFERENCE_NAMES = [
    (r"^conv0\.", "stem."),
    (r"^cell_stem_(\d)\.", r"stem_cells.\1."),
    (r"^reduction_cell_(\d)\.", r"reductions.\1."),
    (r"^cell_(\d+)\.", lambda match: "stages.{}.cells.{}.".format(*divmod(int(match[1]), CELLS_PER_STAGE))),
    (r"\.conv_1x1\.", ".current.1."),
    (r"\.conv_prev_1x1\.", ".previous.1."),
    (r"\.path_1\.", ".previous.even."),
    (r"\.path_2\.", ".previous.odd."),
    (r"\.comb_iter_(\d)_", r".combine_\1_"),
    (r"\.separable_(\d)\.depthwise_conv2d\.", zero_based(".{}.1.")),
    (r"\.separable_(\d)\.pointwise_conv2d\.", zero_based(".{}.2.conv.")),
    (r"\.bn_sep_(\d)\.", zero_based(".{}.2.norm.")),
    (r"\.bn\.", ".norm."),
    (r"^last_linear\.", "head."),
]

REFERENCE_IGNORED = [r"\.final_path_bn\.num_batches_tracked$"]


def convert_reference(state: dict[str, Tensor], model: NASNet) -> dict[str, Tensor]:
    """Gives each path of a factorised reduction its half of the batch norm, which the reference has behind both."""
    converted = {}
    for name, tensor in state.items():
        cell, is_joint_norm, leaf = name.partition(".final_path_bn.")
        if is_joint_norm:
            converted[f"{cell}.path_1.norm.{leaf}"], converted[f"{cell}.path_2.norm.{leaf}"] = tensor.chunk(2)
        else:
            converted[name] = tensor
    return converted
