"""Swin: attention inside windows that shift from block to block, on a pyramid of merged patches.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (arXiv 2103.14030).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.names import BLOCK_NAMES, SWIN_STAGE_NAMES, SWIN_TABLES, WINDOW_PYRAMID_STEM_NAMES
from ommatid.models.reference import position_map
from ommatid.models.registry import register
from ommatid.models.window_pyramid import WindowPyramidConfig, window_pyramid_stem
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.embed import PatchMerging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import WindowAttention
from ommatid.nn.residual import stochastic_depth


@dataclass(frozen=True, kw_only=True)
class SwinConfig(WindowPyramidConfig):
    qkv_bias: bool = True


@register("swin", SwinConfig)
class Swin(Backbone):
    """Swin Transformer, version 1.

    Window sizes and position tables follow `image_size`, as in the reference; images of any other size work too:
    maps are padded to whole windows, as in the authors' dense prediction code, and absolute positions resampled.
    """

    config: SwinConfig
    no_decay = ("table",)

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(config.patch_size, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = window_pyramid_stem(config)
        self.stages = pyramid_stages(
            dims, rates, PatchMerging, lambda i, j, rate: swin_block(config, i, j, drop_path=rate)
        )
        self.norm = nn.LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


def swin_block(config: SwinConfig, stage: int, index: int, *, drop_path: float) -> Block:
    dim = config.dims[stage]
    window, shift = config.window_and_shift(stage, index)
    mixer = WindowAttention(dim, config.heads[stage], window, shift=shift, qkv_bias=config.qkv_bias)
    return Block(dim, mixer, MLP(dim, int(dim * config.mlp_ratio)), drop_path=drop_path)


TINY = SwinConfig()
SMALL = TINY.replace(depths=(2, 2, 18, 2))
BASE = SMALL.replace(dims=(128, 256, 512, 1024), heads=(4, 8, 16, 32))
LARGE = SMALL.replace(dims=(192, 384, 768, 1536), heads=(6, 12, 24, 48))

VARIANTS = {
    "swin_tiny": TINY,
    "swin_small": SMALL,
    "swin_base": BASE,
    "swin_base_window12_384": BASE.replace(image_size=384, window_size=12),
    "swin_large": LARGE,
    "swin_large_window12_384": LARGE.replace(image_size=384, window_size=12),
    "swin_tiny_c24": TINY.replace(image_size=256, window_size=8, heads=(4, 8, 16, 32)),
}

REFERENCE_NAMES = [
    *WINDOW_PYRAMID_STEM_NAMES,
    *SWIN_STAGE_NAMES,
    *BLOCK_NAMES,
]

REFERENCE_IGNORED = SWIN_TABLES


def convert_reference(state: dict[str, Tensor], model: Swin) -> dict[str, Tensor]:
    return position_map(state, "absolute_pos_embed", model.config.grid)
