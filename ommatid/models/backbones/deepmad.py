"""DeepMAD: a convolutional network written down as a list of super-blocks, found by mathematics instead of training.

"DeepMAD: Mathematical Architecture Design for Deep Convolutional Neural Network" (arXiv 2303.02165). What is
maximised, under which limits, is in `methods/deepmad`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require
from ommatid.models.registry import register
from ommatid.nn.conv import ConvNorm
from ommatid.nn.init import init_conv_fan_out_
from ommatid.nn.pool import AvgPool2d

CONV = "ConvKXBNRELU"
BOTTLENECK = "SuperResK1KXK1"
TWO_CONVS = "SuperResKXKX"
MOBILE_GATED = "SuperResK1DWSEK1"
MOBILE = "SuperResK1DWK1"
CLASSES = (CONV, BOTTLENECK, TWO_CONVS, MOBILE_GATED, MOBILE)


class SuperBlock(NamedTuple):
    """`depth` equal inner blocks, the first of which changes width and resolution; one convolution where 0.

    leads: of an inner block, whether it is the first of its super-block.
    """

    kind: str
    in_dim: int
    dim: int
    stride: int
    kernel_size: int
    depth: int = 0
    bottleneck: int = 0
    leads: bool = True

    @property
    def is_mobile(self) -> bool:
        return self.kind in (MOBILE, MOBILE_GATED)

    def inner(self) -> list[SuperBlock]:
        """Its inner blocks, each as a super-block of its own."""
        later = self._replace(in_dim=self.dim, stride=1, depth=1, leads=False)
        return [self._replace(depth=1), *[later] * (self.depth - 1)] if self.depth else [self]


def super_blocks(structure: tuple[Mapping[str, Any], ...]) -> tuple[SuperBlock, ...]:
    """What a published structure, a list of dictionaries, says. Raises ValueError for one that can't be built."""
    blocks = tuple(_super_block(entry) for entry in structure)
    require(len(blocks) > 0, "structure", structure, "at least one block")
    for earlier, later in pairwise(blocks):
        require(later.in_dim == earlier.dim, "in", later.in_dim, f"the width before it ({earlier.dim})")
    return blocks


def _super_block(entry: Mapping[str, Any]) -> SuperBlock:
    kind = entry.get("class")
    require(kind in CLASSES, "class", kind, ", ".join(CLASSES))
    names = ["in", "out", "stride", "kernel_size", *([] if kind == CONV else ["depth", "bottleneck"])]
    for name in names:
        value = entry.get(name)
        require(isinstance(value, int) and value > 0, name, value, f"a positive integer in every {kind}")
    return SuperBlock(str(kind), *(entry[name] for name in names))


def structure_of(blocks: tuple[SuperBlock, ...]) -> tuple[dict[str, Any], ...]:
    """The list of dictionaries that stands for these super-blocks."""
    names = ("class", "in", "out", "stride", "kernel_size", "depth", "bottleneck")
    return tuple(dict(zip(names[: 5 if block.kind == CONV else 7], block, strict=False)) for block in blocks)


def stage_ends(blocks: tuple[SuperBlock, ...]) -> tuple[int, ...]:
    """Indices of the blocks in front of a change of resolution, and of the last."""
    ends = [index - 1 for index, block in enumerate(blocks) if index and block.stride == 2]
    return (*ends, len(blocks) - 1)


RESNET_18 = structure_of(
    (
        SuperBlock(CONV, 3, 32, 2, 3),
        SuperBlock(BOTTLENECK, 32, 96, 2, 5, 1, 40),
        SuperBlock(BOTTLENECK, 96, 384, 2, 5, 6, 40),
        SuperBlock(BOTTLENECK, 384, 384, 2, 5, 9, 64),
        SuperBlock(BOTTLENECK, 384, 1024, 1, 3, 10, 104),
        SuperBlock(BOTTLENECK, 1024, 672, 2, 5, 12, 104),
    )
)

MOBILE_29M = structure_of(
    (
        SuperBlock(CONV, 3, 40, 2, 3),
        SuperBlock(MOBILE_GATED, 40, 40, 1, 5, 2, 240),
        SuperBlock(MOBILE_GATED, 40, 85, 2, 5, 4, 512),
        SuperBlock(MOBILE_GATED, 85, 134, 2, 5, 6, 800),
        SuperBlock(MOBILE_GATED, 134, 201, 2, 5, 6, 1208),
        SuperBlock(MOBILE_GATED, 201, 312, 2, 5, 5, 1872),
        SuperBlock(CONV, 312, 1792, 1, 1),
    )
)


@dataclass(frozen=True, kw_only=True)
class DeepMADConfig(Config):
    """`structure` is the list of super-blocks, as published; `out_stages` are the stages that `features` gives.

    Only the functions "metrics" and "mutation" read the rest: what the score is made of, and the steps of a search.
    """

    function: Literal["network", "metrics", "mutation"] = "network"
    num_classes: int = 0
    image_size: int = 224
    structure: tuple[Any, ...] = RESNET_18
    out_stages: tuple[int, ...] = (1, 2, 3, 4)
    stage_weights: tuple[float, ...] = (1, 1, 1, 1, 8)
    alpha_width: float = 1.0
    alpha_kernel: float = 1.0
    depth_penalty_ratio: float = 10.0
    space: Literal["space_k1kxk1", "space_k1dwsek1", "space_k1dwk1"] = "space_k1kxk1"
    budget_layers: float = 0
    steps: tuple[Any, ...] = ()

    def check(self) -> None:
        blocks = super_blocks(self.structure)
        if self.function == "network":
            count = len(stage_ends(blocks))
            possible = self.out_stages and min(self.out_stages) >= 0 and max(self.out_stages) < count
            require(bool(possible), "out_stages", self.out_stages, f"numbers from 0 to {count - 1}, the last stage")
            first = blocks[0].in_dim
            require(first == self.in_channels, "in_channels", self.in_channels, f"the first block's width ({first})")

    @property
    def blocks(self) -> tuple[SuperBlock, ...]:
        return super_blocks(self.structure)


@register("deepmad", DeepMADConfig)
class DeepMAD(Backbone):
    """The network of a structure. Takes images of any size."""

    config: DeepMADConfig

    def __init__(self, config: DeepMADConfig) -> None:
        super().__init__(config)
        blocks, ends = config.blocks, stage_ends(config.blocks)
        self.ends = [ends[stage] for stage in config.out_stages]
        self.channels = tuple(blocks[end].dim for end in self.ends)
        self.strides = tuple(math.prod(block.stride for block in blocks[: end + 1]) for end in self.ends)
        self.blocks = nn.ModuleList(_built(block) for block in blocks)
        self.head = classifier(blocks[-1].dim, config.num_classes)
        self.apply(init_conv_fan_out_)

    @property
    def embed_dim(self) -> int:
        return self.config.blocks[-1].dim

    def maps(self, image: Tensor) -> list[Tensor]:
        found = self._all_maps(image)
        return [found[end] for end in self.ends]

    def embed(self, image: Tensor) -> Tensor:
        return self._all_maps(image)[-1].mean((1, 2))

    def _all_maps(self, image: Tensor) -> list[Tensor]:
        features, found = channels_last(image), []
        for block in self.blocks:
            features = block(features)
            found.append(features)
        return found


def _built(block: SuperBlock) -> nn.Module:
    if block.kind == CONV:
        return ConvNorm(block.in_dim, block.dim, block.kernel_size, stride=block.stride, act=nn.ReLU())
    return nn.Sequential(*(InnerBlock(inner) for inner in block.inner()))


class InnerBlock(nn.Module):
    """Convolutions, a shortcut where the kind has one, an activation: (B, H, W, C_in) -> (B, H / s, W / s, C)."""

    def __init__(self, block: SuperBlock) -> None:
        super().__init__()
        self.act = nn.SiLU() if block.kind == MOBILE_GATED else nn.ReLU()
        self.layers = nn.Sequential(_layers(block, self.act))
        self.shortcut = _shortcut(block)

    def forward(self, features: Tensor) -> Tensor:
        mixed = self.layers(features)
        return self.act(mixed if self.shortcut is None else mixed + self.shortcut(features))


def _layers(block: SuperBlock, act: nn.Module) -> OrderedDict[str, nn.Module]:
    kernel, stride, dim = block.kernel_size, block.stride, block.bottleneck
    if block.kind == TWO_CONVS:
        conv1 = ConvNorm(block.in_dim, dim, kernel, act=act)
        return OrderedDict(conv1=conv1, conv2=ConvNorm(dim, block.dim, kernel, stride=stride))
    groups = dim if block.is_mobile else 1
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = ConvNorm(block.in_dim, dim, 1, act=act)
    layers["conv2"] = ConvNorm(dim, dim, kernel, stride=stride, groups=groups, act=act)
    if block.kind == MOBILE_GATED:
        layers["gate"] = NormedSqueezeExcite(dim)
    layers["conv3"] = ConvNorm(dim, block.dim, 1)
    return layers


def _shortcut(block: SuperBlock) -> nn.Module | None:
    changes = block.in_dim != block.dim
    if block.is_mobile and changes:
        return None
    # Maps with odd sides end in a window that is cut off, as the strided convolution's is padded.
    steps: OrderedDict[str, nn.Module] = OrderedDict()
    if block.stride == 2:
        steps["pool"] = AvgPool2d(2, ceil_mode=True)
    if changes or (block.kind == BOTTLENECK and block.leads):
        steps["proj"] = ConvNorm(block.in_dim, block.dim, 1)
    return nn.Sequential(steps)


def squeezed_width(dim: int) -> int:
    """Of the layer inside a gate of `dim` channels."""
    return max(1, round(0.25 * dim) // 8) * 8


class NormedSqueezeExcite(nn.Module):
    """Squeeze-and-excitation with a batch norm behind both layers: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, squeezed_width(dim), 1, act=nn.SiLU())
        self.conv2 = ConvNorm(squeezed_width(dim), dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        return features * self.conv2(self.conv1(features.mean((1, 2), keepdim=True))).sigmoid()


VARIANTS = {
    "deepmad_r18": DeepMADConfig(num_classes=1000),
    "deepmad_29m": DeepMADConfig(num_classes=1000, structure=MOBILE_29M),
    "deepmad_29m_288": DeepMADConfig(num_classes=1000, structure=MOBILE_29M, image_size=288),
}

REFERENCE_NAMES = [
    (r"^block_list\.(\d+)\.block_list\.(\d+)\.", r"blocks.\1.\2."),
    (r"^block_list\.", "blocks."),
    (r"\.conv1\.weight$", ".conv.weight"),
    (r"\.bn1\.", ".norm."),
    (r"\.residual_proj\.", ".shortcut.proj."),
    (r"^(blocks\.\d+\.\d+)\.(conv\d)\.", r"\1.layers.\2."),
    (r"\.se2\.", ".layers.gate."),
]
