"""VAN: features gated by a large-kernel convolution that is decomposed into thin ones.

"Visual Attention Network" (arXiv 2202.09741).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, PVT_STAGE_NAMES
from ommatid.models.reference import zero_based
from ommatid.models.registry import register
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.conv import ConvNorm
from ommatid.nn.feedforward import ConvMLP
from ommatid.nn.init import init_conv_fan_out_, init_linear_, init_pointwise_fan_out_
from ommatid.nn.mixers import LargeKernelAttention
from ommatid.nn.norm import BatchNorm2d, LayerNorm
from ommatid.nn.residual import stochastic_depth


@dataclass(frozen=True, kw_only=True)
class VANConfig(Config):
    dims: tuple[int, ...] = (32, 64, 160, 256)
    depths: tuple[int, ...] = (3, 3, 5, 2)
    mlp_ratios: tuple[float, ...] = (8, 8, 4, 4)

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, mlp_ratios=self.mlp_ratios)
        require_positive(dims=self.dims)


@register("van", VANConfig)
class VAN(Backbone):
    """Visual attention network. Sides round up, so any image works."""

    def __init__(self, config: VANConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stages = pyramid_stages(
            dims,
            rates,
            partial(ConvNorm, kernel_size=3, stride=2, bias=True),
            lambda i, _, rate: van_block(dims[i], int(dims[i] * config.mlp_ratios[i]), drop_path=rate),
            stem=ConvNorm(config.in_channels, dims[0], 7, stride=4, bias=True),
            norm=LayerNorm,
        )
        self.head = classifier(dims[-1], config.num_classes)
        self.head.apply(init_linear_)
        self.stages.apply(init_pointwise_fan_out_)
        self.stages.apply(init_conv_fan_out_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, channels_last(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))


def van_block(dim: int, hidden: int, *, drop_path: float) -> Block:
    return Block(
        dim, LargeKernelAttention(dim), ConvMLP(dim, hidden), norm=BatchNorm2d, layer_scale=1e-2, drop_path=drop_path
    )


B1 = VANConfig(dims=(64, 128, 320, 512), depths=(2, 2, 4, 2))

VARIANTS = {
    "van_b0": VANConfig(),
    "van_b1": B1,
    "van_b2": B1.replace(depths=(3, 3, 12, 3)),
    "van_b3": B1.replace(depths=(3, 5, 27, 3)),
    "van_b4": B1.replace(depths=(3, 6, 40, 3)),
    "van_b5": VANConfig(dims=(96, 192, 480, 768), depths=(3, 3, 24, 3)),
    "van_b6": VANConfig(dims=(96, 192, 384, 768), depths=(6, 6, 90, 6)),
}

REFERENCE_NAMES = [
    (r"^patch_embed(\d+)\.proj\.", zero_based("stages.{}.downsample.conv.")),
    (r"^patch_embed(\d+)\.norm\.", zero_based("stages.{}.downsample.norm.")),
    (r"\.spatial_gating_unit\.conv0\.", ".gate.0."),
    (r"\.spatial_gating_unit\.conv_spatial\.", ".gate.1."),
    (r"\.spatial_gating_unit\.conv1\.", ".gate.2."),
    (r"\.attn\.proj_1\.", ".attn.proj_in."),
    (r"\.attn\.proj_2\.", ".attn.proj_out."),
    *PVT_STAGE_NAMES,
    *BLOCK_NAMES,
]
