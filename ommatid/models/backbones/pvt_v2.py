"""PVT v2: a pyramid whose attention reads a coarser copy of its own map.

"PVT v2: Improved Baselines with Pyramid Vision Transformer" (arXiv 2106.13797).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require_divisible, require_stages
from ommatid.models.names import BLOCK_NAMES, PVT_STAGE_NAMES, REDUCTION_NAMES
from ommatid.models.registry import register
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.embed import overlapping_merging, overlapping_stem
from ommatid.nn.feedforward import ConvMLP
from ommatid.nn.init import init_conv_fan_out_, init_linear_
from ommatid.nn.mixers import SpatialReductionAttention
from ommatid.nn.mixers.spatial_reduction import PooledReduction, strided_reduction
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import stochastic_depth


@dataclass(frozen=True, kw_only=True)
class PVTv2Config(Config):
    """`linear` is the variant with pooled keys and values in every stage; `sr_ratios` then means nothing."""

    dims: tuple[int, ...] = (32, 64, 160, 256)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[float, ...] = (8, 8, 4, 4)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    qkv_bias: bool = True
    linear: bool = False

    def check(self) -> None:
        require_stages(
            dims=self.dims, depths=self.depths, heads=self.heads, mlp_ratios=self.mlp_ratios, sr_ratios=self.sr_ratios
        )
        require_divisible(self.dims, self.heads)


@register("pvt_v2", PVTv2Config)
class PVTv2(Backbone):
    """PVT v2. Sides round up, so any image works that leaves each reduction at least one cell."""

    def __init__(self, config: PVTv2Config) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stages = pyramid_stages(
            dims,
            rates,
            overlapping_merging,
            lambda i, _, rate: pvt_v2_block(config, i, drop_path=rate),
            stem=overlapping_stem(config.in_channels, dims[0]),
            norm=LayerNorm,
        )
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)
        self.apply(init_conv_fan_out_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, channels_last(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))


def pvt_v2_block(config: PVTv2Config, stage: int, *, drop_path: float) -> Block:
    dim, hidden = config.dims[stage], int(config.dims[stage] * config.mlp_ratios[stage])
    reduction = PooledReduction(dim) if config.linear else strided_reduction(dim, config.sr_ratios[stage])
    return Block(
        dim,
        SpatialReductionAttention(dim, config.heads[stage], reduction, qkv_bias=config.qkv_bias),
        ConvMLP(dim, hidden, expand_act=nn.ReLU() if config.linear else None),
        norm=LayerNorm,
        drop_path=drop_path,
    )


B1 = PVTv2Config(dims=(64, 128, 320, 512))

VARIANTS = {
    "pvt_v2_b0": PVTv2Config(),
    "pvt_v2_b1": B1,
    "pvt_v2_b2": B1.replace(depths=(3, 4, 6, 3)),
    "pvt_v2_b2_li": B1.replace(depths=(3, 4, 6, 3), linear=True),
    "pvt_v2_b3": B1.replace(depths=(3, 4, 18, 3)),
    "pvt_v2_b4": B1.replace(depths=(3, 8, 27, 3)),
    "pvt_v2_b5": B1.replace(depths=(3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4)),
}


REFERENCE_NAMES = [
    *PVT_STAGE_NAMES,
    *REDUCTION_NAMES,
    *BLOCK_NAMES,
]
