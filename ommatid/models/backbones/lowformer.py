"""LowFormer: fused convolutions early, attention at low resolution late, for speed on hardware and not on paper.

"LowFormer: Hardware Efficient Design for Convolutional Transformer Backbones" (arXiv 2409.03460) has the B
series, "Beyond MACs: Hardware Efficient Architecture Design for Vision Backbones" (doi 10.1007/s11263-026-02873-5) the
E series.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_positive
from ommatid.models.registry import register
from ommatid.nn.block import Stage, pyramid
from ommatid.nn.conv import ConvNorm
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_and_conv_
from ommatid.nn.mbconv import FusedMBConv, MBConv
from ommatid.nn.mixers import Lowtention
from ommatid.nn.norm import GroupNorm
from ommatid.nn.residual import Residual

FUSED_STAGES = 2


@dataclass(frozen=True, kw_only=True)
class LowFormerConfig(Config):
    """Five resolutions: the stem's and those of four stages.

    The blocks of the second and third include the strided one, those of the last two do not. Without `attention`
    there is no `mlp` either. The drop path is on every residual branch of the stages.
    """

    dims: tuple[int, ...] = (16, 32, 64, 128, 256)
    depths: tuple[int, ...] = (0, 1, 1, 3, 4)
    attention: bool = True
    mlp: bool = True
    stem_expand_ratio: float = 2
    down_expand_ratios: tuple[float, ...] = (4, 4, 4, 4)
    head_dims: tuple[int, int] = (1536, 1600)

    def check(self) -> None:
        require(len(self.dims) == 5 and min(self.dims) > 0, "dims", self.dims, "five positive widths")
        require(self.dims[3] > 1 and self.dims[4] > 1, "dims", self.dims, "at least 2 in the last two")
        counted = len(self.depths) == 5 and min(self.depths) >= 0 and min(self.depths[1:3]) > 0
        require(counted, "depths", self.depths, "five numbers, at least 1 in the second and third")
        ratios = self.down_expand_ratios
        require(len(ratios) == 4 and min(ratios) > 0, "down_expand_ratios", ratios, "four positive numbers")
        require_positive(stem_expand_ratio=self.stem_expand_ratio)
        require(min(self.head_dims) > 0, "head_dims", self.head_dims, "two positive widths")

    @property
    def branches(self) -> int:
        """Residual branches of a LowFormer block."""
        return 1 + self.attention + (self.attention and self.mlp)


@register("lowformer", LowFormerConfig)
class LowFormer(Backbone):
    """LowFormer, B and E series. Sides round up, so any image works."""

    config: LowFormerConfig

    def __init__(self, config: LowFormerConfig) -> None:
        super().__init__(config)
        dims, (narrow, wide) = config.dims, config.head_dims
        self.channels, self.strides = dims, doubling_strides(2, len(dims))
        rates = residual_rates(config)
        stem_residuals = [fused_residual(dims[0], config.stem_expand_ratio, 0.0) for _ in range(config.depths[0])]
        first_conv = ConvNorm(config.in_channels, dims[0], 3, stride=2, act=nn.Hardswish())
        self.stem = nn.Sequential(first_conv, *stem_residuals)
        self.stages = nn.ModuleList(
            Stage(
                fused(dims[stage], dims[stage + 1], config.down_expand_ratios[stage], stride=2),
                lowformer_blocks(config, stage, rates),
            )
            for stage in range(4)
        )
        self.final = ConvNorm(dims[-1], narrow, 1, act=nn.Hardswish())
        self.widen = nn.Sequential(nn.Linear(narrow, wide, bias=False), nn.LayerNorm(wide), nn.Hardswish())
        self.head = classifier(wide, config.num_classes)
        self.apply(init_linear_and_conv_)

    @property
    def embed_dim(self) -> int:
        return self.config.head_dims[1]

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid([self.stem, *self.stages], channels_last(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.widen(self.final(self.maps(image)[-1]).mean((1, 2)))


def residual_rates(config: LowFormerConfig) -> Iterator[float]:
    """Drop-path rates of the residual branches of the stages in order: they rise linearly, the first not from 0."""
    count = sum(config.depths[1:3]) - 2 + config.branches * sum(config.depths[3:])
    return (config.drop_path_rate * number / count for number in range(1, count + 1))


def lowformer_blocks(config: LowFormerConfig, stage: int, rates: Iterator[float]) -> list[nn.Module]:
    """Fused convolutions early, of which the strided one counts as the first; attention late."""
    dim, depth = config.dims[stage + 1], config.depths[stage + 1]
    if stage < FUSED_STAGES:
        return [fused_residual(dim, 4, next(rates)) for _ in range(depth - 1)]
    return [lowformer_block(config, stage, rates) for _ in range(depth)]


def fused(in_dim: int, dim: int, ratio: float, **options: Any) -> FusedMBConv:
    return FusedMBConv(in_dim, dim, round(in_dim * ratio), act=nn.Hardswish(), **options)


def fused_residual(dim: int, ratio: float, drop_path: float) -> Residual:
    return Residual(dim, fused(dim, dim, ratio, scale=0.0), norm=nn.Identity, drop_path=drop_path)


def lowformer_block(config: LowFormerConfig, stage: int, rates: Iterator[float]) -> nn.Sequential:
    """Attention and an MLP, each where the config has it, then a convolution: a residual branch each."""
    dim = config.dims[stage + 1]
    norm = partial(GroupNorm, 1)
    branches: OrderedDict[str, nn.Module] = OrderedDict()
    if config.attention:
        attention = lowtention(dim, stride=2 if stage == FUSED_STAGES else 1)
        branches["token"] = Residual(dim, attention, norm=norm if config.mlp else nn.Identity, drop_path=next(rates))
    if config.attention and config.mlp:
        branches["channel"] = Residual(dim, MLP(dim, 4 * dim), norm=norm, drop_path=next(rates))
    branches["local"] = Residual(dim, local_conv(dim), norm=nn.Identity, drop_path=next(rates))
    return nn.Sequential(branches)


def lowtention(dim: int, *, stride: int) -> Lowtention:
    """Heads of about 60 channels, each attending in half of them."""
    heads = max(1, dim // 60)
    return Lowtention(dim, heads, dim // heads // 2, stride=stride)


def local_conv(dim: int) -> nn.Module:
    """A fused inverted bottleneck in narrow stages; in wide ones a depthwise one with nothing but the last norm."""
    if dim < 256:
        return fused(dim, dim, 4, bias=True, scale=0.0)
    return MBConv(dim, dim, 4 * dim, act=nn.Hardswish(), norms=(False, False, True), scale=0.0)


B0 = LowFormerConfig()
B1 = B0.replace(depths=(0, 1, 1, 5, 5), down_expand_ratios=(6, 6, 6, 6))
B15 = B1.replace(dims=(20, 40, 80, 160, 320), depths=(0, 1, 1, 6, 6), head_dims=(2304, 2560))
B3 = B1.replace(dims=(32, 64, 128, 256, 512), depths=(1, 2, 3, 6, 6), stem_expand_ratio=4)

VARIANTS = {
    "lowformer_b0": B0,
    "lowformer_b1": B1,
    "lowformer_b15": B15,
    "lowformer_b3": B3,
    "lowformer_e1": B15.replace(depths=(0, 1, 1, 4, 4), attention=False, mlp=False),
    "lowformer_e2": B3.replace(depths=(1, 2, 3, 4, 4), attention=False, mlp=False),
    "lowformer_e3": B3.replace(mlp=False),
}

REFERENCE_NAMES = [
    (r"^backbone\.", ""),
    (r"^input_stem\.op_list\.", "stem."),
    (r"^stages\.(\d)\.op_list\.0\.main\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.op_list\.(\d+)\.", lambda match: f"stages.{match[1]}.blocks.{int(match[2]) - 1}."),
    (r"\.total\.0\.0\.main\.0\.", ".token.norm."),
    (r"\.total\.0\.0\.main\.1\.", ".token.inner."),
    (r"\.total\.0\.1\.main\.0\.", ".channel.norm."),
    (r"\.total\.0\.1\.main\.1\.", ".channel.inner.fc1."),
    (r"\.total\.0\.1\.main\.3\.", ".channel.inner.fc2."),
    (r"\.total\.0\.main\.", ".token.inner."),
    (r"\.total\.1\.main\.", ".local.inner."),
    (r"\.main\.", ".inner."),
    (r"\.conv_proj\.0\.", ".shrink.conv."),
    (r"\.conv_proj\.1\.", ".shrink.norm."),
    (r"\.pwise\.0\.", ".qkv."),
    (r"\.upsampling\.", ".grow."),
    (r"\.inverted_conv\.", ".expand."),
    (r"\.(?:spatial|depth)_conv\.", ".conv."),
    (r"\.point_conv\.", ".reduce."),
    (r"^head\.op_list\.0\.", "final."),
    (r"^head\.op_list\.2\.linear\.", "widen.0."),
    (r"^head\.op_list\.2\.norm\.", "widen.1."),
    (r"^head\.op_list\.3\.linear\.", "head."),
]
