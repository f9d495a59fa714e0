"""DAFormer: a decoder that sees context at all levels, made to be carried over to pictures of another kind.

"DAFormer: Improving Network Architectures and Training Strategies for Domain-Adaptive Semantic Segmentation" (arXiv
2111.14887). How it is trained without labels: methods/adaptation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.decoders.all_mlp import JoinedLevels
from ommatid.models.model import Model
from ommatid.models.registry import register
from ommatid.nn.atrous_pyramid import AtrousPyramid
from ommatid.nn.conv import ConvNorm

DILATIONS = (1, 6, 12, 18)


def daformer(
    channels: Sequence[int],
    dim: int,
    *,
    embed_dim: int | None = None,
    dilations: Sequence[int] = DILATIONS,
    separable: bool = True,
    pool: bool = False,
) -> JoinedLevels:
    """Maps (B, H_i, W_i, C_i), fine to coarse -> (B, H_0, W_0, dim).

    Args:
        channels: C_i.
        dim: width of the answer.
        embed_dim: width of each level before they are fused; dim where None.
        dilations, separable, pool: of the `AtrousPyramid` that fuses them.
    """
    width = embed_dim or dim
    fuse = AtrousPyramid(len(channels) * width, dim, dilations, separable=separable, pool=pool)
    return JoinedLevels(channels, width, fuse)


@dataclass(frozen=True, kw_only=True)
class DAFormerConfig(PartConfig):
    """`function` says what is meant: the decoder, or a step of its training, and so which other fields are read.

    decoder: `dims` of the maps, `embed_dim`, `channels`, `fusion` with `dilations`, `separable` and `pool`, or with
    `kernel_size`. rare_class: `temperature`. feature_distance: `classes`, `min_ratio`, `weight`; `block` is how often
    the labels of the case are repeated. self_training: `threshold`, `ignore_top`, `ignore_bottom`; `scale` is that of
    the case's teacher. ema: `alpha`, `iterations`.
    """

    function: Literal["decoder", "rare_class", "feature_distance", "self_training", "ema"] = "decoder"
    dims: tuple[int, ...] = (64, 128, 320, 512)
    embed_dim: int = 256
    channels: int = 256
    num_classes: int = 19
    fusion: Literal["aspp", "conv"] = "aspp"
    dilations: tuple[int, ...] = DILATIONS
    separable: bool = True
    pool: bool = False
    kernel_size: int = 3
    temperature: float = 0.01
    classes: tuple[int, ...] = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)
    min_ratio: float = 0.75
    block: int = 32
    weight: float = 0.005
    scale: float = 1.0
    threshold: float = 0.968
    ignore_top: int = 15
    ignore_bottom: int = 120
    alpha: float = 0.999
    iterations: tuple[int, ...] = (1,)

    def check(self) -> None:
        require(len(self.dims) > 0, "dims", self.dims, "the width of one map at least")
        require(len(self.dilations) > 0, "dilations", self.dilations, "one at least")
        require_positive(
            dims=self.dims,
            embed_dim=self.embed_dim,
            channels=self.channels,
            num_classes=self.num_classes,
            dilations=self.dilations,
            kernel_size=self.kernel_size,
            temperature=self.temperature,
            block=self.block,
        )
        known = all(0 <= kind < self.num_classes for kind in self.classes)
        asked = self.function == "feature_distance"
        require(known or not asked, "classes", self.classes, f"numbers from 0 to {self.num_classes - 1}")
        for name in ("min_ratio", "alpha"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")
        for name in ("ignore_top", "ignore_bottom"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(min(self.iterations, default=0) >= 0, "iterations", self.iterations, "0 or more")


@register("daformer", DAFormerConfig)
class DAFormer(Model):
    """feature0, feature1, ..., (B, C_i, H_i, W_i), fine to coarse -> logits (B, K, H_0, W_0)."""

    config: DAFormerConfig

    def __init__(self, config: DAFormerConfig) -> None:
        super().__init__(config)
        self.decoder = JoinedLevels(config.dims, config.embed_dim, make_fusion(config))
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Linear(config.channels, config.num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, **features: Tensor) -> Tensor:
        dropped = self.dropout(self.fused(**features)).permute(0, 2, 3, 1)
        return self.classifier(dropped).permute(0, 3, 1, 2)

    def fused(self, **features: Tensor) -> Tensor:
        """(B, channels, H_0, W_0): what the classifier reads."""
        names = [f"feature{index}" for index in range(len(self.config.dims))]
        require(sorted(features) == sorted(names), "inputs", sorted(features), ", ".join(names))
        return self.decoder([channels_last(features[name]) for name in names]).permute(0, 3, 1, 2)


def make_fusion(config: DAFormerConfig) -> nn.Module:
    in_dim = len(config.dims) * config.embed_dim
    if config.fusion == "conv":
        return ConvNorm(in_dim, config.channels, config.kernel_size, act=nn.ReLU())
    return AtrousPyramid(in_dim, config.channels, config.dilations, separable=config.separable, pool=config.pool)


def reference_outputs(model: DAFormer, **features: Tensor) -> dict[str, Tensor]:
    return {"fused": model.fused(**features), "logits": model(**features)}


VARIANTS = {"daformer_mit_b5": DAFormerConfig()}

REFERENCE_NAMES = [
    (r"^embed_layers\.(\d+)\.proj\.", r"decoder.projections.\1."),
    (r"^fuse_layer\.aspp_modules\.", "decoder.fuse.branches."),
    (r"^fuse_layer\.image_pool\.1\.", "decoder.fuse.pool.proj."),
    (r"^fuse_layer\.bottleneck\.", "decoder.fuse.fuse."),
    (r"^fuse_layer\.", "decoder.fuse."),
    (r"\.depthwise_conv\.", ".0."),
    (r"\.pointwise_conv\.", ".1."),
    (r"\.bn\.", ".norm."),
    (r"^conv_seg\.", "classifier."),
]
