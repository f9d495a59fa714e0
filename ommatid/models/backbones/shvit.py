"""SHViT: coarse maps from the start, and one attention head on a part of the channels.

"SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design" (arXiv 2401.16456).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, doubling_strides
from ommatid.models.config import Config, require, require_stages
from ommatid.models.names import LEVIT_NAMES, SANDWICHED_MERGING_NAMES
from ommatid.models.registry import register
from ommatid.nn.block import pyramid, pyramid_stages
from ommatid.nn.embed import conv_stem, sandwiched_merging
from ommatid.nn.feedforward import BatchNormMLP
from ommatid.nn.head import norm_classifier
from ommatid.nn.mixers import SingleHeadAttention
from ommatid.nn.reparam import depthwise_residual
from ommatid.nn.residual import Residual, stochastic_depth


@dataclass(frozen=True, kw_only=True)
class SHViTConfig(Config):
    """Stages of type "s" have attention, those of type "i" have none; their `partial_dims` and `qk_dims` mean nothing.

    The drop path is on the attention and MLP branches.
    """

    dims: tuple[int, ...] = (128, 224, 320)
    depths: tuple[int, ...] = (2, 4, 5)
    partial_dims: tuple[int, ...] = (32, 48, 68)
    qk_dims: tuple[int, ...] = (16, 16, 16)
    block_types: tuple[Literal["i", "s"], ...] = ("i", "s", "s")
    distillation: bool = False

    def check(self) -> None:
        require_stages(
            dims=self.dims,
            depths=self.depths,
            partial_dims=self.partial_dims,
            qk_dims=self.qk_dims,
            block_types=self.block_types,
        )
        require(self.dims[0] % 8 == 0 and min(self.dims) > 0, "dims", self.dims, "positive, the first a multiple of 8")
        for stage, kind in enumerate(self.block_types):
            if kind == "s":
                possible = 0 < self.partial_dims[stage] <= self.dims[stage]
                require(possible, "partial_dims", self.partial_dims, f"from 1 to the width ({self.dims[stage]})")
                require(self.qk_dims[stage] > 0, "qk_dims", self.qk_dims, "positive integers")


@register("shvit", SHViTConfig)
class SHViT(Backbone):
    """SHViT. Sides round up, so any image works. With `distillation`, `model.head.both` gives the two logits."""

    def __init__(self, config: SHViTConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(16, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = conv_stem(config.in_channels, dims[0], 4)
        self.stages = pyramid_stages(
            dims, rates, sandwiched_merging, lambda i, _, rate: shvit_block(config, i, drop_path=rate)
        )
        self.head = norm_classifier(dims[-1], config.num_classes, distillation=config.distillation)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))


def shvit_block(config: SHViTConfig, stage: int, *, drop_path: float) -> nn.Sequential:
    """Depthwise convolution, attention where the stage has it, MLP: each in a residual branch."""
    dim = config.dims[stage]
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv=depthwise_residual(dim, scale=0.0))
    if config.block_types[stage] == "s":
        attention = SingleHeadAttention(dim, config.partial_dims[stage], config.qk_dims[stage])
        parts["attention"] = Residual(dim, attention, norm=nn.Identity, drop_path=drop_path)
    parts["mlp"] = Residual(dim, BatchNormMLP(dim, 2 * dim), norm=nn.Identity, drop_path=drop_path)
    return nn.Sequential(parts)


VARIANTS = {
    "shvit_s1": SHViTConfig(),
    "shvit_s2": SHViTConfig(dims=(128, 308, 448), partial_dims=(32, 66, 96)),
    "shvit_s3": SHViTConfig(dims=(192, 352, 448), depths=(3, 5, 5), partial_dims=(48, 75, 96)),
    "shvit_s4": SHViTConfig(dims=(224, 336, 448), depths=(4, 7, 6), partial_dims=(48, 72, 96)),
}

REFERENCE_NAMES = [
    *SANDWICHED_MERGING_NAMES,
    (r"\.conv\.m\.", ".conv.branches.0."),
    (r"\.mixer\.m\.", ".attention.inner."),
    (r"\.ffn\.m\.", ".mlp.inner."),
    (r"\.pre_norm\.", ".norm."),
    *LEVIT_NAMES,
]
