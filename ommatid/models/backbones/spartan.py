"""SpaRTAN: small convolutions of two views mix space, and a gated MLP with rotated channel pairs mixes channels.

"SpaRTAN: Spatial Reinforcement Token-based Aggregation Network for Visual Recognition" (arXiv 2507.10999).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_stages
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.conv import ConvNorm
from ommatid.nn.init import init_conv_fan_out_, init_linear_, init_pointwise_fan_out_
from ommatid.nn.mixers import HighLowConv
from ommatid.nn.norm import GroupNorm
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.rotated_mlp import RotatedMLP

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class SpaRTANConfig(Config):
    dims: tuple[int, ...] = (32, 64, 128, 256)
    depths: tuple[int, ...] = (3, 3, 12, 2)
    mlp_ratios: tuple[int, ...] = (4, 4, 2, 2)

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, mlp_ratios=self.mlp_ratios)
        require(all(dim > 0 and dim % 8 == 0 for dim in self.dims), "dims", self.dims, "positive multiples of 8")
        require(min(self.depths) > 0, "depths", self.depths, "at least one block in every stage")
        require(min(self.mlp_ratios) > 1, "mlp_ratios", self.mlp_ratios, "integers from 2")

    @property
    def smallest_image(self) -> int:
        """The shortest side that leaves the last stage one cell: the first convolutions round up, the others down."""
        return 4 * 2 ** (len(self.dims) - 1) - 3


@register("spartan", SpaRTANConfig)
class SpaRTAN(Backbone):
    """SpaRTAN. Early stages have dense spatial and depthwise channel convolutions, the later half the reverse."""

    config: SpaRTANConfig

    def __init__(self, config: SpaRTANConfig) -> None:
        super().__init__(config)
        dims, blocks = config.dims, sum(config.depths)
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        # The reference's rates rise as if one more block followed.
        rates = stochastic_depth(config.drop_path_rate * (blocks - 1) / blocks, config.depths)
        self.stem = nn.Sequential(
            ConvNorm(config.in_channels, dims[0] // 2, 3, stride=2, act=nn.GELU(), eps=EPS),
            ConvNorm(dims[0] // 2, dims[0], 3, stride=2, act=nn.GELU(), eps=EPS),
        )
        self.stages = pyramid_stages(
            dims, rates, halving_conv, lambda i, _, rate: spartan_block(config, i, drop_path=rate)
        )
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_pointwise_fan_out_)
        self.apply(init_conv_fan_out_)
        self.head.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, self.config.smallest_image)
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))


def halving_conv(in_dim: int, dim: int) -> ConvNorm:
    return ConvNorm(in_dim, dim, 2, stride=2, padding=0, act=nn.SiLU(), eps=EPS)


def spartan_block(config: SpaRTANConfig, stage: int, *, drop_path: float) -> Block:
    dim, late = config.dims[stage], stage >= len(config.dims) // 2
    return Block(
        dim,
        HighLowConv(dim, depthwise=late, eps=EPS),
        RotatedMLP(dim, config.mlp_ratios[stage] * dim, depthwise=not late, eps=EPS),
        norm=partial(GroupNorm, 1, eps=EPS),
        layer_scale=1e-5,
        drop_path=drop_path,
    )


VARIANTS = {"spartan_t": SpaRTANConfig()}

REFERENCE_NAMES = [
    (r"^conv\.", "stem."),
    (r"\.scale_1$", ".token.scale.gamma"),
    (r"\.scale_2$", ".channel.scale.gamma"),
    (r"\.norm_1\.", ".token.norm."),
    (r"\.norm_2\.", ".channel.norm."),
    (r"\.smixer\.", ".token.inner."),
    (r"\.cmixer\.", ".channel.inner."),
    (r"\.h_conv\.", ".high.0."),
    (r"\.h_attn\.", ".high.1."),
    (r"\.l_conv\.0\.conv\.", ".low.0."),
    (r"\.l_conv\.1\.", ".low.1."),
    (r"\.l_attn\.", ".low.2."),
    (r"\.squeeze\.", ".fc1."),
    (r"\.expand\.", ".fc2."),
    (r"\.channel\.inner\.attn\.", ".channel.inner.gate."),
    (r"\.channel\.inner\.proj\.", ".channel.inner.weight."),
    (r"\.channel\.inner\.proj_out\.", ".channel.inner.proj."),
    (r"\.theta\.", ".content."),
    (r"\.complex$", ".rotation"),
    (r"^linear\.", "head."),
]


def convert_reference(state: dict[str, Tensor], model: SpaRTAN) -> dict[str, Tensor]:
    """Finds the stage of each layer: the reference counts all blocks, and the steps between stages, in one sequence."""
    places = []
    for stage, depth in enumerate(model.config.depths):
        places += [f"stages.{stage}.downsample"] if stage else []
        places += [f"stages.{stage}.blocks.{block}" for block in range(depth)]

    def place(match: re.Match[str]) -> str:
        return places[int(match[1])] if int(match[1]) < len(places) else match[0]

    return {re.sub(r"^layers\.(\d+)", place, name): tensor for name, tensor in state.items()}
