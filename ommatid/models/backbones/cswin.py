"""CSWin: attention in vertical and horizontal stripes at once, which together make a cross around each token.

"CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows" (arXiv 2107.00652).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.reference import zero_based
from ommatid.models.registry import register
from ommatid.models.sizes import halved
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.embed import PatchEmbed, overlapping_merging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import CrossShapedAttention
from ommatid.nn.residual import stochastic_depth

# Pixels a side that the stem needs: its kernel of 7 has a padding of 2, not 3.
SMALLEST_IMAGE = 3


@dataclass(frozen=True, kw_only=True)
class CSWinConfig(Config):
    """`dense` is the form of the authors' dense prediction code: a norm for the map of each stage, no classifier.

    `image_size` says, unless `dense`, in which stages one stripe is the whole map; `num_classes` means nothing with
    `dense`, and the last of the `stripe_widths` means nothing at all.
    """

    image_size: int = 224
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (1, 2, 21, 1)
    heads: tuple[int, ...] = (2, 4, 8, 16)
    stripe_widths: tuple[int, ...] = (1, 2, 7, 7)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    dense: bool = False

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, heads=self.heads, stripe_widths=self.stripe_widths)
        require_divisible(self.dims, self.heads)
        require(self.image_size >= SMALLEST_IMAGE, "image_size", self.image_size, f"at least {SMALLEST_IMAGE}")
        require_positive(stripe_widths=self.stripe_widths)
        for stage, heads in enumerate(self.heads):
            halves = self.stage_stripe(stage) is None or heads % 2 == 0
            require(halves, "heads", self.heads, f"an even number in stage {stage}, which has two kinds of stripes")

    def stage_stripe(self, stage: int) -> int | None:
        """Width of the stripes of a stage; None where attention spans the whole map."""
        side, _ = halved(((self.image_size - SMALLEST_IMAGE) // 4 + 1,) * 2, stage)
        width = self.stripe_widths[stage]
        whole = stage == len(self.dims) - 1 or (not self.dense and side == width)
        return None if whole else width


@register("cswin", CSWinConfig)
class CSWin(Backbone):
    """CSWin Transformer. Takes any image of at least 3 pixels a side: maps are padded to whole stripes.

    The dense form has no classifier; its embedding is the means of all its maps side by side.
    """

    config: CSWinConfig

    def __init__(self, config: CSWinConfig) -> None:
        super().__init__(config)
        dims, norm, dense = config.dims, nn.LayerNorm, config.dense
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = PatchEmbed(config.in_channels, dims[0], 7, stride=4, padding=2, norm=norm(dims[0]))
        self.stages = pyramid_stages(
            dims, rates, overlapping_merging, lambda i, _, rate: cswin_block(config, i, drop_path=rate)
        )
        self.map_norms = nn.ModuleList(norm(dim) if dense else nn.Identity() for dim in dims)
        self.norm = nn.Identity() if dense else norm(dims[-1])
        self.head = nn.Identity() if dense else classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    @property
    def embed_dim(self) -> int:
        return sum(self.channels) if self.config.dense else self.channels[-1]

    def maps(self, image: Tensor) -> list[Tensor]:
        maps = pyramid(self.stages, self.stem(channels_last(image)))
        return [norm(features) for norm, features in zip(self.map_norms, maps, strict=True)]

    def embed(self, image: Tensor) -> Tensor:
        maps = self.maps(image)
        pooled = maps if self.config.dense else maps[-1:]
        return torch.cat([self.norm(features).mean((1, 2)) for features in pooled], dim=-1)


def cswin_block(config: CSWinConfig, stage: int, *, drop_path: float) -> Block:
    dim = config.dims[stage]
    # The authors' dense prediction code has the bias whatever its option says.
    qkv_bias = config.qkv_bias or config.dense
    mixer = CrossShapedAttention(dim, config.heads[stage], config.stage_stripe(stage), qkv_bias=qkv_bias)
    return Block(dim, mixer, MLP(dim, int(dim * config.mlp_ratio)), drop_path=drop_path)


TINY = CSWinConfig()
SMALL = TINY.replace(depths=(2, 4, 32, 2))
BASE = SMALL.replace(dims=(96, 192, 384, 768), heads=(4, 8, 16, 32))
LARGE = SMALL.replace(dims=(144, 288, 576, 1152), heads=(6, 12, 24, 24))
AT_384 = {"image_size": 384, "stripe_widths": (1, 2, 12, 12)}

VARIANTS = {
    "cswin_tiny": TINY,
    "cswin_small": SMALL,
    "cswin_base": BASE,
    "cswin_base_384": BASE.replace(**AT_384),
    "cswin_large": LARGE,
    "cswin_large_384": LARGE.replace(**AT_384),
}

REFERENCE_NAMES = [
    (r"^stage1_conv_embed\.0\.", "stem.proj."),
    (r"^stage1_conv_embed\.2\.", "stem.norm."),
    (r"^merge(\d+)\.conv\.", r"stages.\1.downsample.proj."),
    (r"^merge(\d+)\.norm\.", r"stages.\1.downsample.norm."),
    (r"^norm(\d+)\.", zero_based("map_norms.{}.")),
    (r"^stage(\d+)\.", zero_based("stages.{}.blocks.")),
    (r"\.attns\.(\d)\.get_v\.", r".token.inner.branches.\1.position."),
    (r"(\.blocks\.\d+)\.(qkv|proj)\.", r"\1.token.inner.\2."),
    *BLOCK_NAMES,
]
