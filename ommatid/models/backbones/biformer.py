"""BiFormer: attention that first finds out which regions of the map are worth attending to.

"BiFormer: Vision Transformer with Bi-Level Routing Attention" (arXiv 2303.08810).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.reference import rename, zero_based
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.block import pyramid, pyramid_stages
from ommatid.nn.conv import Conv2d, ConvNorm, depthwise_conv
from ommatid.nn.embed import PreNormMerging
from ommatid.nn.feedforward import MLP, ConvMLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention, BiLevelRoutingAttention
from ommatid.nn.norm import BatchNorm2d, LayerNorm
from ommatid.nn.position import ConvPosition
from ommatid.nn.residual import PostNormResidual, Residual, stochastic_depth

# Attention over the whole map has so many heads, whatever head_dim says.
GLOBAL_HEADS = 8


@dataclass(frozen=True, kw_only=True)
class BiFormerConfig(Config):
    """Of `topks`, a positive number is that of the regions read, 0 stands for convolutions in place of attention, -1
    for attention over the whole map and -2 for that with a local convolution.

    `stl`, the form for ablations in the shape of Swin-T, has `n_wins` in place of `n_win`, and none of `qk_dims`,
    `before_attn_dwconv`, `layer_scale`, `pre_norm`, `auto_pad` and `mlp_dwconv`. `auto_pad` says whether the reference
    pads maps that are not made of whole regions, or refuses them; here they are always padded.
    """

    variant: Literal["biformer", "stl"] = "biformer"
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 8, 2)
    head_dim: int = 32
    qk_dims: tuple[int, ...] = (64, 128, 256, 512)
    mlp_ratios: tuple[float, ...] = (3, 3, 3, 3)
    n_win: int = 7
    n_wins: tuple[int, ...] = (7, 7, 7, 7)
    topks: tuple[int, ...] = (1, 4, 16, -2)
    side_dwconv: int = 5
    before_attn_dwconv: int = 3
    layer_scale: float | None = None
    pre_norm: bool = True
    auto_pad: bool = False
    mlp_dwconv: bool = False

    def check(self) -> None:
        per_stage = {"n_wins": self.n_wins} if self.plain else {"qk_dims": self.qk_dims}
        require_stages(dims=self.dims, depths=self.depths, mlp_ratios=self.mlp_ratios, topks=self.topks, **per_stage)
        require_positive(head_dim=self.head_dim)
        require(self.side_dwconv % 2 == 1, "side_dwconv", self.side_dwconv, "an odd integer")
        require(self.before_attn_dwconv == 3, "before_attn_dwconv", self.before_attn_dwconv, "3")
        require(self.dims[0] % 2 == 0, "dims", self.dims, "an even width in the first stage")
        for stage, topk in enumerate(self.topks):
            if topk > 0:
                self._check_routing(stage)
            elif topk < 0:
                whole = self.dims[stage] % GLOBAL_HEADS == 0
                require(whole, "dims", self.dims, f"a multiple of {GLOBAL_HEADS} where topks is negative")
            require(topk >= -2, "topks", self.topks, "a number of regions, 0, -1 or -2")

    def _check_routing(self, stage: int) -> None:
        regions, width = self.regions(stage), self.qk_dim(stage)
        require(regions > 0, "n_wins" if self.plain else "n_win", regions, "a positive integer")
        require(self.topks[stage] <= regions**2, "topks", self.topks, f"at most all {regions**2} regions")
        require(width >= self.head_dim, "head_dim", self.head_dim, f"at most the width of the queries ({width})")
        require_divisible(width, self.heads(stage), "qk_dims // head_dim")
        require_divisible(self.dims[stage], self.heads(stage), "qk_dims // head_dim")

    @property
    def plain(self) -> bool:
        return self.variant == "stl"

    def regions(self, stage: int) -> int:
        return self.n_wins[stage] if self.plain else self.n_win

    def qk_dim(self, stage: int) -> int:
        return self.dims[stage] if self.plain else self.qk_dims[stage]

    def heads(self, stage: int) -> int:
        """Heads of a stage with routing."""
        return self.qk_dim(stage) // self.head_dim


@register("biformer", BiFormerConfig)
class BiFormer(Backbone):
    """BiFormer and its `stl` form. Takes any image; sides round up, and maps are padded to whole regions."""

    config: BiFormerConfig

    def __init__(self, config: BiFormerConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        make_stem, downsample, block = (
            (plain_stem, partial(PreNormMerging, norm=BatchNorm2d), plain_block)
            if config.plain
            else (biformer_stem, overlapping_conv, biformer_block)
        )
        self.stem = make_stem(config.in_channels, dims[0])
        self.stages = pyramid_stages(dims, rates, downsample, lambda i, _, rate: block(config, i, drop_path=rate))
        self.norm = BatchNorm2d(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        if self.config.plain:
            require_at_least(image, self.strides[-1])
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


def biformer_stem(in_dim: int, dim: int) -> nn.Sequential:
    return nn.Sequential(overlapping_conv(in_dim, dim // 2, act=nn.GELU()), overlapping_conv(dim // 2, dim))


def overlapping_conv(in_dim: int, dim: int, *, act: nn.Module | None = None) -> ConvNorm:
    return ConvNorm(in_dim, dim, 3, stride=2, bias=True, act=act)


def plain_stem(in_dim: int, dim: int) -> ConvNorm:
    return ConvNorm(in_dim, dim, 4, stride=4, padding=0, bias=True)


def biformer_block(config: BiFormerConfig, stage: int, *, drop_path: float) -> nn.Sequential:
    dim, hidden = config.dims[stage], int(config.dims[stage] * config.mlp_ratios[stage])
    mlp = ConvMLP(dim, hidden) if config.mlp_dwconv else MLP(dim, hidden)
    # A layer scale that is not positive does not exist.
    layer_scale = config.layer_scale if config.layer_scale and config.layer_scale > 0 else None
    residual = Residual if config.pre_norm else PostNormResidual
    branch = partial(residual, dim, norm=LayerNorm, layer_scale=layer_scale, drop_path=drop_path)
    mixer = biformer_mixer(config, stage)
    return nn.Sequential(OrderedDict(position=ConvPosition(dim), token=branch(mixer), channel=branch(mlp)))


def plain_block(config: BiFormerConfig, stage: int, *, drop_path: float) -> nn.Sequential:
    dim = config.dims[stage]
    branch = partial(Residual, dim, norm=LayerNorm, drop_path=drop_path)
    mlp = MLP(dim, int(dim * config.mlp_ratios[stage]))
    return nn.Sequential(OrderedDict(token=branch(biformer_mixer(config, stage)), channel=branch(mlp)))


def biformer_mixer(config: BiFormerConfig, stage: int) -> nn.Module:
    dim, topk, kernel = config.dims[stage], config.topks[stage], config.side_dwconv
    if topk == 0:
        return nn.Sequential(Conv2d(dim, dim, 1), depthwise_conv(dim, 5), Conv2d(dim, dim, 1))
    if topk < 0:
        local = depthwise_conv(dim, kernel) if topk == -2 else None
        return Attention(dim, GLOBAL_HEADS, qkv_bias=False, local=local)
    return BiLevelRoutingAttention(
        dim,
        config.heads(stage),
        config.regions(stage),
        topk,
        qk_dim=config.qk_dim(stage),
        local_kernel=kernel,
    )


SMALL = BiFormerConfig(depths=(4, 4, 18, 4))
BASE_DIMS = (96, 192, 384, 768)

VARIANTS = {
    "biformer_tiny": BiFormerConfig(),
    "biformer_small": SMALL,
    "biformer_base": SMALL.replace(dims=BASE_DIMS, qk_dims=BASE_DIMS),
    "biformer_stl": BiFormerConfig(variant="stl", dims=BASE_DIMS, depths=(2, 2, 6, 2), mlp_ratios=(4, 4, 4, 4)),
}

REFERENCE_NAMES = [
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.pos_embed\.", ".position.conv."),
    (r"\.attn\.lepe\.", ".token.inner.local."),
    (r"\.attn\.(?:qkv\.)?qkv\.", ".token.inner.qkv."),
    (r"\.attn\.(?:wo|proj)\.", ".token.inner.proj."),
    (r"\.attn\.(\d)\.", zero_based(".token.inner.{}.")),
    (r"\.mlp\.0\.", ".channel.inner.fc1."),
    (r"\.mlp\.1\.dwconv\.", ".channel.inner.conv."),
    (r"\.mlp\.[23]\.", ".channel.inner.fc2."),
    *BLOCK_NAMES,
]

# The same numbers stand for different layers in the two variants.
DOWNSAMPLING_NAMES: dict[str, list[tuple[str, str]]] = {
    "biformer": [
        (r"^downsample_layers\.0\.0\.", "stem.0.conv."),
        (r"^downsample_layers\.0\.1\.", "stem.0.norm."),
        (r"^downsample_layers\.0\.3\.", "stem.1.conv."),
        (r"^downsample_layers\.0\.4\.", "stem.1.norm."),
        (r"^downsample_layers\.(\d+)\.0\.", r"stages.\1.downsample.conv."),
        (r"^downsample_layers\.(\d+)\.1\.", r"stages.\1.downsample.norm."),
    ],
    "stl": [
        (r"^downsample_layers\.0\.0\.", "stem.conv."),
        (r"^downsample_layers\.0\.1\.", "stem.norm."),
        (r"^downsample_layers\.(\d+)\.0\.", r"stages.\1.downsample.norm."),
        (r"^downsample_layers\.(\d+)\.1\.", r"stages.\1.downsample.conv."),
    ],
}


def convert_reference(state: dict[str, Tensor], model: BiFormer) -> dict[str, Tensor]:
    return {rename(name, DOWNSAMPLING_NAMES[model.config.variant]): value for name, value in state.items()}
