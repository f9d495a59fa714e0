"""CrossFormer and CrossFormer++: tokens of several scales, which attend to near and to far tokens by turns.

"CrossFormer: A Versatile Vision Transformer Based on Cross-scale Attention" (arXiv 2108.00154) and "CrossFormer++: A
Versatile Vision Transformer Hinging on Cross-scale Attention" (arXiv 2303.06908).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, DYNAMIC_BIAS_NAMES, SWIN_STAGE_NAMES
from ommatid.models.reference import position_map
from ommatid.models.registry import register
from ommatid.models.sizes import halved, require_at_least, require_patches, whole_patches
from ommatid.nn.block import Block, Stage, pyramid
from ommatid.nn.conv import Conv2d, depthwise_conv
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import LongShortAttention
from ommatid.nn.position import AbsolutePosition, dynamic_bias
from ommatid.nn.residual import stochastic_depth
from ommatid.ops.windows import pad_to_multiple


@dataclass(frozen=True, kw_only=True)
class CrossFormerConfig(Config):
    """`cooling_layer` is what CrossFormer++ adds; `merge_sizes` has one list of kernels between any two stages."""

    image_size: int = 224
    patch_sizes: tuple[int, ...] = (4, 8, 16, 32)
    merge_sizes: tuple[tuple[int, ...], ...] = ((2, 4), (2, 4), (2, 4))
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (1, 1, 8, 6)
    heads: tuple[int, ...] = (2, 4, 8, 16)
    group_sizes: tuple[int, ...] = (7, 7, 7, 7)
    intervals: tuple[int, ...] = (8, 4, 2, 1)
    mlp_ratios: tuple[float, ...] = (4.0, 4.0, 4.0, 4.0)
    qkv_bias: bool = True
    absolute_position: bool = False
    patch_norm: bool = True
    cooling_layer: bool = False
    centered_padding: bool = False

    def check(self) -> None:
        require_stages(
            dims=self.dims,
            depths=self.depths,
            heads=self.heads,
            group_sizes=self.group_sizes,
            intervals=self.intervals,
            mlp_ratios=self.mlp_ratios,
        )
        require_divisible(self.dims, self.heads)
        transitions = len(self.dims) - 1
        require(
            len(self.merge_sizes) == transitions, "merge_sizes", self.merge_sizes, f"{transitions} lists of kernels"
        )
        require_kernels("patch_sizes", self.patch_sizes, self.patch_sizes[0] if self.patch_sizes else 1, self.dims[0])
        for kernels, dim in zip(self.merge_sizes, self.dims[1:], strict=True):
            require_kernels("merge_sizes", kernels, 2, dim)
        require(min(self.dims) >= 16, "dims", self.dims, "16 or more: the position network is a sixteenth as wide")
        require_positive(group_sizes=self.group_sizes, intervals=self.intervals)
        require_patches(self.image_size, self.patch_sizes[0])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the first stage."""
        return whole_patches(self.image_size, self.patch_sizes[0])

    def block_group(self, stage: int, index: int) -> tuple[int, int]:
        """(group size, interval) of a block: every other one is long distance, unless one group is the whole map."""
        side, _ = halved(self.grid, stage)
        if side <= self.group_sizes[stage]:
            return side, 1
        return self.group_sizes[stage], self.intervals[stage] if index % 2 else 1


def require_kernels(field: str, kernels: tuple[int, ...], stride: int, dim: int) -> None:
    fit = bool(kernels) and all(kernel >= stride > 0 and (kernel - stride) % 2 == 0 for kernel in kernels)
    require(fit, field, kernels, f"kernels that exceed the stride ({stride}) by an even number")
    smallest = 2 ** (len(kernels) - 1)
    require(dim % smallest == 0, field, kernels, f"fewer kernels, or a width ({dim}) that is a multiple of {smallest}")


@register("crossformer", CrossFormerConfig)
class CrossFormer(Backbone):
    """CrossFormer, and CrossFormer++ with its cooling layers.

    Groups and the position table follow `image_size`, as in the reference. Images of any other size work too: maps
    are padded to whole groups, odd ones to even, and absolute positions resampled.
    """

    config: CrossFormerConfig
    no_decay = ("table",)

    def __init__(self, config: CrossFormerConfig) -> None:
        super().__init__(config)
        dims, norm, patch = config.dims, nn.LayerNorm, config.patch_sizes[0]
        self.channels, self.strides = dims, doubling_strides(patch, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = CrossScaleConv(config.in_channels, dims[0], config.patch_sizes, stride=patch)
        self.stem_norm = norm(dims[0]) if config.patch_norm else nn.Identity()
        self.position = AbsolutePosition(config.grid, dims[0]) if config.absolute_position else nn.Identity()
        self.stages = nn.ModuleList(
            Stage(
                CrossScaleMerging(dims[i - 1], dim, config.merge_sizes[i - 1]) if i else nn.Identity(),
                [crossformer_block(config, i, j, drop_path=rates[i][j]) for j in range(config.depths[i])],
            )
            for i, dim in enumerate(dims)
        )
        self.norm = norm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, self.strides[0])
        return pyramid(self.stages, self.position(self.stem_norm(self.stem(channels_last(image)))))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


class CrossScaleConv(nn.Module):
    """Convolutions of several kernels around the same centres, side by side: (B, H, W, C_in) -> (B, H // s, W // s, C).

    Args:
        in_dim: C_in.
        dim: C. The first kernel gets half of it, the second a quarter and so on; the last as much as the one before.
        kernels: sides of the kernels, each the stride plus an even number.
        stride: s.
    """

    def __init__(self, in_dim: int, dim: int, kernels: tuple[int, ...], *, stride: int) -> None:
        super().__init__()
        last = len(kernels) - 1
        self.convs = nn.ModuleList(
            Conv2d(in_dim, dim // 2 ** min(i + 1, last), kernel, stride=stride, padding=(kernel - stride) // 2)
            for i, kernel in enumerate(kernels)
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([conv(features) for conv in self.convs], dim=-1)


class CrossScaleMerging(nn.Module):
    """Norm, then cross-scale convolutions of stride 2: (B, H, W, C_in) -> (B, ceil(H/2), ceil(W/2), C)."""

    def __init__(self, in_dim: int, dim: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_dim)
        self.reduction = CrossScaleConv(in_dim, dim, kernels, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        return self.reduction(pad_to_multiple(self.norm(features), (2, 2)))


def crossformer_block(config: CrossFormerConfig, stage: int, index: int, *, drop_path: float) -> nn.Sequential:
    dim, heads = config.dims[stage], config.heads[stage]
    group, interval = config.block_group(stage, index)
    mixer = LongShortAttention(
        dim,
        heads,
        group,
        dynamic_bias((group, group), heads, dim // 16),
        interval=interval,
        centered=config.centered_padding,
        qkv_bias=config.qkv_bias,
    )
    block = Block(dim, mixer, MLP(dim, int(dim * config.mlp_ratios[stage])), drop_path=drop_path)
    cools = config.cooling_layer and index % 3 == 2 and index < config.depths[stage] - 1
    cooling = nn.Sequential(depthwise_conv(dim, 3), nn.LayerNorm(dim)) if cools else nn.Identity()
    return nn.Sequential(OrderedDict(block=block, cooling=cooling))


TINY = CrossFormerConfig()
SMALL = TINY.replace(dims=(96, 192, 384, 768), depths=(2, 2, 6, 2), heads=(3, 6, 12, 24))
BASE = SMALL.replace(depths=(2, 2, 18, 2))
LARGE = BASE.replace(dims=(128, 256, 512, 1024), heads=(4, 8, 16, 32))
PLUS_PLUS = {"group_sizes": (4, 4, 14, 7), "intervals": (4, 2, 1, 1), "cooling_layer": True}

VARIANTS = {
    "crossformer_tiny": TINY,
    "crossformer_small": SMALL,
    "crossformer_base": BASE,
    "crossformer_large": LARGE,
    "crossformer_pp_small": TINY.replace(depths=(2, 2, 18, 2), **PLUS_PLUS),
    "crossformer_pp_base": BASE.replace(**PLUS_PLUS),
    "crossformer_pp_large": LARGE.replace(**PLUS_PLUS),
    "crossformer_pp_huge": LARGE.replace(depths=(6, 6, 18, 2), **PLUS_PLUS),
}

REFERENCE_NAMES = [
    (r"^patch_embed\.projs\.", "stem.convs."),
    (r"^patch_embed\.norm\.", "stem_norm."),
    (r"\.reductions\.", ".reduction.convs."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.ex_conv\.", r"stages.\1.blocks.\2.cooling.0."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.ex_ln\.", r"stages.\1.blocks.\2.cooling.1."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.", r"stages.\1.blocks.\2.block."),
    *DYNAMIC_BIAS_NAMES,
    *SWIN_STAGE_NAMES,
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: CrossFormer) -> dict[str, Tensor]:
    """Gives the absolute position table, stored as a sequence, its two axes."""
    return position_map(state, "absolute_pos_embed", model.config.grid)
