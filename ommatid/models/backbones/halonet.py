"""HaloNet: a residual network whose convolutions give way to attention in blocks with halos.

"Scaling Local Self-Attention for Parameter Efficient Visual Backbones" (arXiv 2103.12731).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_positive, require_stages
from ommatid.models.registry import register
from ommatid.nn.block import pyramid
from ommatid.nn.conv import ConvNorm
from ommatid.nn.init import init_conv_fan_out_
from ommatid.nn.mixers import HaloAttention
from ommatid.nn.norm import BatchNorm2d
from ommatid.nn.pool import MaxPool2d
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.resnet import ResNetBlock
from ommatid.nn.squeeze_excite import EfficientChannelAttention, SqueezeExcite, init_gate_fan_out_, rounded_width

BlockType = Literal["bottle", "halo"]


@dataclass(frozen=True, kw_only=True)
class HaloNetConfig(Config):
    """`heads`, `head_dim`, `block_size` and `halo_size` are of "halo" blocks, `group_size` (channels of a group of the
    3x3 convolution, 0 for one group) and `channel_attention` of "bottle" blocks.
    """

    stem_type: Literal["7x7", "tiered"] = "7x7"
    stem_dim: int = 64
    stem_pool: bool = True
    dims: tuple[int, ...] = (64, 128, 256, 512)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    block_types: tuple[tuple[BlockType, ...], ...] = (("halo",) * 3, ("halo",) * 3, ("halo",) * 10, ("halo",) * 3)
    bottleneck_ratios: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    group_size: int = 0
    heads: tuple[int, ...] = (8, 8, 8, 8)
    head_dim: int | None = None
    block_size: int = 8
    halo_size: int = 3
    channel_attention: Literal["se", "eca"] | None = None
    act: Literal["relu", "silu"] = "relu"
    final_dim: int = 0

    def check(self) -> None:
        require_stages(
            dims=self.dims,
            strides=self.strides,
            block_types=self.block_types,
            bottleneck_ratios=self.bottleneck_ratios,
            heads=self.heads,
        )
        require(self.stem_dim > 2, "stem_dim", self.stem_dim, "at least 3")
        require(set(self.strides) <= {1, 2}, "strides", self.strides, "1 or 2 for each stage")
        require_positive(dims=self.dims, bottleneck_ratios=self.bottleneck_ratios, block_size=self.block_size)
        require(self.head_dim is None or self.head_dim > 0, "head_dim", self.head_dim, "a positive integer or null")
        for name in ("group_size", "halo_size", "final_dim"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for stage, types in enumerate(self.block_types):
            require(len(types) > 0, "block_types", self.block_types, "at least one block in each stage")
            hidden, heads, group = self.hidden(stage), self.heads[stage], self.group_size
            usable = "halo" not in types or (heads > 0 and hidden % heads == 0)
            require(usable, "heads", self.heads, f"a divisor of the narrow width ({hidden}) of stage {stage}")
            usable = "bottle" not in types or group == 0 or hidden % group == 0
            require(usable, "group_size", group, f"0 or a divisor of the narrow width ({hidden}) of stage {stage}")

    def hidden(self, stage: int) -> int:
        """Width inside the blocks of a stage."""
        return rounded_width(self.dims[stage] * self.bottleneck_ratios[stage], keep=0.9)

    @property
    def stem_strides(self) -> tuple[int, ...]:
        """Strides of the stem's convolutions and of its pooling."""
        convs = (2,) if self.stem_type == "7x7" else (2, 1, 1 if self.stem_pool else 2)
        return (*convs, 2) if self.stem_pool else convs


@register("halonet", HaloNetConfig)
class HaloNet(Backbone):
    """HaloNet and its hybrids. Takes any image; sides round up."""

    config: HaloNetConfig

    def __init__(self, config: HaloNetConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels = dims
        *_, stem_stride = accumulate(config.stem_strides, int.__mul__)
        self.strides = tuple(accumulate(config.strides, int.__mul__, initial=stem_stride))[1:]
        self.stem = stem(config)
        rates = stochastic_depth(config.drop_path_rate, [len(types) for types in config.block_types])
        self.stages = nn.ModuleList(
            nn.Sequential(*(halonet_block(config, i, j, drop_path=rate) for j, rate in enumerate(stage)))
            for i, stage in enumerate(rates)
        )
        self.final = (
            ConvNorm(dims[-1], config.final_dim, 1, act=activation(config)) if config.final_dim else nn.Identity()
        )
        self.head = classifier(self.embed_dim, config.num_classes)
        for init in (init_conv_fan_out_, init_gate_fan_out_):
            self.apply(init)
        if isinstance(self.head, nn.Linear):
            nn.init.normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)

    @property
    def embed_dim(self) -> int:
        return self.config.final_dim or self.channels[-1]

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.final(self.maps(image)[-1]).mean((1, 2))


def activation(config: HaloNetConfig) -> nn.Module:
    return nn.ReLU() if config.act == "relu" else nn.SiLU()


def stem(config: HaloNetConfig) -> nn.Sequential:
    """One large or three small convolutions, then maybe max pooling."""
    dim, tiered = config.stem_dim, config.stem_type == "tiered"
    widths = (config.in_channels, 3 * dim // 8, dim // 2, dim) if tiered else (config.in_channels, dim)
    convs = [
        ConvNorm(widths[i], widths[i + 1], 3 if tiered else 7, stride=config.stem_strides[i], act=activation(config))
        for i in range(len(widths) - 1)
    ]
    return nn.Sequential(*convs, *([MaxPool2d(3, stride=2, padding=1)] if config.stem_pool else []))


def halonet_block(config: HaloNetConfig, stage: int, index: int, *, drop_path: float) -> ResNetBlock:
    """A bottleneck block around attention or a convolution; the first of a stage leads there from the one above."""
    dim, hidden, attends = config.dims[stage], config.hidden(stage), config.block_types[stage][index] == "halo"
    in_dim, stride = (dim, 1) if index else ((config.stem_dim, *config.dims)[stage], config.strides[stage])
    branch = OrderedDict(
        reduction=ConvNorm(in_dim, hidden, 1, act=activation(config)),
        spatial=halo_attention(config, stage, stride) if attends else gated_conv(config, stage, stride),
        expansion=ConvNorm(hidden, dim, 1, scale=0.0),
    )
    act = activation(config)
    return ResNetBlock(in_dim, dim, nn.Sequential(branch), stride=stride, act=act, drop_path=drop_path)


def halo_attention(config: HaloNetConfig, stage: int, stride: int) -> nn.Sequential:
    hidden = config.hidden(stage)
    mixer = HaloAttention(
        hidden,
        config.heads[stage],
        config.block_size,
        config.halo_size,
        head_dim=config.head_dim,
        stride=stride,
    )
    return nn.Sequential(mixer, BatchNorm2d(hidden), activation(config))


def gated_conv(config: HaloNetConfig, stage: int, stride: int) -> nn.Sequential:
    hidden = config.hidden(stage)
    groups = hidden // config.group_size if config.group_size else 1
    conv = ConvNorm(hidden, hidden, 3, stride=stride, groups=groups, act=activation(config))
    return nn.Sequential(conv, channel_attention(config, hidden))


def channel_attention(config: HaloNetConfig, hidden: int) -> nn.Module:
    if config.channel_attention is None:
        return nn.Identity()
    if config.channel_attention == "eca":
        return EfficientChannelAttention(hidden)
    return SqueezeExcite(hidden, rounded_width(hidden / 16))


def repeated(pattern: str) -> tuple[tuple[BlockType, ...], ...]:
    """Block types written with one letter each, stages apart: "BB BH"."""
    return tuple(tuple("halo" if letter == "H" else "bottle" for letter in stage) for stage in pattern.split())


HYBRID = HaloNetConfig(
    stem_type="tiered",
    dims=(256, 512, 1024, 2048),
    block_types=repeated("BB BB BH HH"),
    bottleneck_ratios=(0.25,) * 4,
    halo_size=2,
)
HYBRID_SILU = HYBRID.replace(act="silu", halo_size=3)

VARIANTS = {
    "halonet_h1": HaloNetConfig(),
    "halonet26t": HYBRID,
    "sehalonet33ts": HYBRID_SILU.replace(
        stem_pool=False,
        dims=(256, 512, 1024, 1536),
        block_types=repeated("BB BBH BBH HH"),
        bottleneck_ratios=(0.25, 0.25, 0.25, 0.333),
        channel_attention="se",
        final_dim=1280,
    ),
    "halonet50ts": HYBRID_SILU.replace(block_types=repeated("BBB BBBH BHBHBH BHB"), heads=(8, 4, 8, 8)),
    "eca_halonext26ts": HYBRID.replace(act="silu", channel_attention="eca", group_size=16, head_dim=16),
}

REFERENCE_NAMES = [
    (r"^stem\.conv(\d)\.", lambda match: f"stem.{int(match[1]) - 1}."),
    (r"^final_conv\.", "final."),
    (r"^head\.fc\.", "head."),
    (r"\.conv1_1x1\.", ".branch.reduction."),
    (r"\.conv3_1x1\.", ".branch.expansion."),
    (r"\.(?:conv2_kxk|self_attn)\.", ".branch.spatial.0."),
    (r"\.(?:post_attn|attn)\.", ".branch.spatial.1."),
    (r"\.bn\.", ".norm."),
    (r"\.q\.", ".query."),
    (r"\.kv\.", ".key_value."),
    (r"\.pos_embed\.height_rel$", ".positions.rows"),
    (r"\.pos_embed\.width_rel$", ".positions.columns"),
]
