"""FaViT: a pyramid whose attention factorises the map into a few summaries, near and far.

"Factorization Vision Transformer: Modeling Long Range Dependency with Local Window Cost" (arXiv 2312.08614).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, PVT_STAGE_NAMES
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.embed import overlapping_merging, overlapping_stem
from ommatid.nn.feedforward import ConvMLP
from ommatid.nn.init import init_conv_fan_out_, init_linear_
from ommatid.nn.mixers import FactorizationAttention
from ommatid.nn.mixers.factorization import channel_split
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import stochastic_depth


@dataclass(frozen=True, kw_only=True)
class FaViTConfig(Config):
    dims: tuple[int, ...] = (32, 64, 128, 256)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    mlp_ratios: tuple[float, ...] = (8, 6, 4, 4)
    qkv_bias: bool = True
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)

    def check(self) -> None:
        require_stages(
            dims=self.dims, depths=self.depths, heads=self.heads, mlp_ratios=self.mlp_ratios, sr_ratios=self.sr_ratios
        )
        require_positive(sr_ratios=self.sr_ratios)
        for dim, heads, ratio in zip(self.dims, self.heads, self.sr_ratios, strict=True):
            unit = 8 if ratio == 1 else 16
            require(dim > 0 and dim % unit == 0, "dims", self.dims, f"multiples of {unit} where sr_ratios has {ratio}")
            _, (local_dim, *_) = channel_split(dim, ratio)
            fits = heads > 0 and local_dim % heads == 0
            require(fits, "heads", self.heads, f"a divisor of {local_dim} where dims has {dim}: of each local part")

    @property
    def smallest_image(self) -> int:
        """The shortest side of an image whose map, in every stage, can be reduced."""
        strides = doubling_strides(4, len(self.dims))
        return max(stride * (ratio - 1) + 1 for stride, ratio in zip(strides, self.sr_ratios, strict=True))


@register("favit", FaViTConfig)
class FaViT(Backbone):
    """FaViT. Sides round up; any image works that is at least `config.smallest_image` pixels a side."""

    config: FaViTConfig

    def __init__(self, config: FaViTConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stages = pyramid_stages(
            dims,
            rates,
            overlapping_merging,
            lambda i, _, rate: favit_block(config, i, drop_path=rate),
            stem=overlapping_stem(config.in_channels, dims[0]),
            norm=LayerNorm,
        )
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)
        self.apply(init_conv_fan_out_)

    def maps(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, self.config.smallest_image)
        return pyramid(self.stages, channels_last(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))


def favit_block(config: FaViTConfig, stage: int, *, drop_path: float) -> Block:
    dim, hidden = config.dims[stage], int(config.dims[stage] * config.mlp_ratios[stage])
    mixer = FactorizationAttention(dim, config.heads[stage], config.sr_ratios[stage], qkv_bias=config.qkv_bias)
    return Block(dim, mixer, ConvMLP(dim, hidden), norm=LayerNorm, drop_path=drop_path)


B1 = FaViTConfig(dims=(64, 128, 256, 512))

VARIANTS = {
    "favit_b0": FaViTConfig(),
    "favit_b1": B1,
    "favit_b2": B1.replace(depths=(2, 3, 18, 3)),
    "favit_b3": FaViTConfig(dims=(96, 192, 384, 768), depths=(2, 3, 14, 3)),
}

REFERENCE_NAMES = [
    (r"\.attn\.q\.", ".attn.query."),
    (r"\.attn\.sr\.", ".attn.coarse.reduction.proj."),
    (r"\.attn\.norm\.", ".attn.coarse.reduction.norm."),
    (r"\.attn\.kv_g\.", ".attn.coarse.key_value."),
    (r"\.attn\.local_conv_g\.", ".attn.coarse.position.conv."),
    (r"\.attn\.kv_l\.depth_conv\.", ".attn.source.0."),
    (r"\.attn\.kv_l\.point_conv\.", ".attn.source.1."),
    (r"\.attn\.fcs\.(\d)\.", r".attn.summaries.\1.summary."),
    (r"\.attn\.single_heads\.(\d)\.", r".attn.summaries.\1.key_value."),
    (r"\.attn\.local_convs\.(\d)\.", r".attn.summaries.\1.position.conv."),
    *PVT_STAGE_NAMES,
    *BLOCK_NAMES,
]
