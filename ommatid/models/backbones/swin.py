"""Swin: attention inside windows that shift from block to block, on a pyramid of merged patches.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (arXiv 2103.14030).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, SWIN_STAGE_NAMES, SWIN_TABLES
from ommatid.models.reference import position_map
from ommatid.models.registry import register
from ommatid.models.sizes import halved, require_patches, whole_patches
from ommatid.nn.block import Block, Stage, pyramid
from ommatid.nn.embed import PatchEmbed, PatchMerging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import WindowAttention
from ommatid.nn.position import AbsolutePosition
from ommatid.nn.residual import stochastic_depth
from ommatid.ops.windows import window_and_shift


@dataclass(frozen=True, kw_only=True)
class SwinConfig(Config):
    image_size: int | tuple[int, int] = 224
    patch_size: int = 4
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    absolute_position: bool = False
    patch_norm: bool = True

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, heads=self.heads)
        require_divisible(self.dims, self.heads)
        require_positive(window_size=self.window_size)
        require_patches(self.image_size, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches in the first stage."""
        return whole_patches(self.image_size, self.patch_size)

    def stage_window(self, stage: int) -> tuple[int, int]:
        """(window, shift) of a stage: one window that covers the shorter side of the map never shifts."""
        return window_and_shift(halved(self.grid, stage), self.window_size)


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
        dims, norm = config.dims, nn.LayerNorm
        self.channels, self.strides = dims, doubling_strides(config.patch_size, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = PatchEmbed(
            config.in_channels, dims[0], config.patch_size, norm=norm(dims[0]) if config.patch_norm else None
        )
        self.position = AbsolutePosition(config.grid, dims[0]) if config.absolute_position else nn.Identity()
        self.stages = nn.ModuleList(
            Stage(
                PatchMerging(dims[i - 1], dim) if i else nn.Identity(),
                [swin_block(config, i, j, drop_path=rates[i][j]) for j in range(config.depths[i])],
            )
            for i, dim in enumerate(dims)
        )
        self.norm = norm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.position(self.stem(channels_last(image))))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


def swin_block(config: SwinConfig, stage: int, index: int, *, drop_path: float) -> Block:
    dim = config.dims[stage]
    window, shift = config.stage_window(stage)
    mixer = WindowAttention(dim, config.heads[stage], window, shift=shift if index % 2 else 0, qkv_bias=config.qkv_bias)
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
    *SWIN_STAGE_NAMES,
    *BLOCK_NAMES,
]

REFERENCE_IGNORED = SWIN_TABLES


def convert_reference(state: dict[str, Tensor], model: Swin) -> dict[str, Tensor]:
    return position_map(state, "absolute_pos_embed", model.config.grid)
