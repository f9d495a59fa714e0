"""Swin MLP: the pyramid of Swin, with a learned matrix over each shifted window's tokens in place of attention.

A variant in the code of "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (arXiv 2103.14030).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, SWIN_STAGE_NAMES
from ommatid.models.reference import position_map
from ommatid.models.registry import register
from ommatid.models.sizes import halved, require_patches, whole_patches
from ommatid.nn.block import Block, Stage, pyramid
from ommatid.nn.embed import PatchEmbed, PatchMerging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import WindowMLP
from ommatid.nn.position import AbsolutePosition
from ommatid.nn.residual import stochastic_depth
from ommatid.ops.windows import window_and_shift


@dataclass(frozen=True, kw_only=True)
class SwinMLPConfig(Config):
    image_size: int | tuple[int, int] = 256
    patch_size: int = 4
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 8
    mlp_ratio: float = 4.0
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


@register("swin_mlp", SwinMLPConfig)
class SwinMLP(Backbone):
    """Swin MLP.

    Windows and the position table follow `image_size`, as in the reference. Images of any other size work too: maps
    are padded to whole windows, and absolute positions resampled.
    """

    config: SwinMLPConfig
    no_decay = ("table",)

    def __init__(self, config: SwinMLPConfig) -> None:
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
                [swin_mlp_block(config, i, j, drop_path=rates[i][j]) for j in range(config.depths[i])],
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


def swin_mlp_block(config: SwinMLPConfig, stage: int, index: int, *, drop_path: float) -> Block:
    dim = config.dims[stage]
    window, shift = window_and_shift(halved(config.grid, stage), config.window_size)
    mixer = WindowMLP(dim, config.heads[stage], window, shift=shift if index % 2 else 0)
    return Block(dim, mixer, MLP(dim, int(dim * config.mlp_ratio)), drop_path=drop_path)


TINY = SwinMLPConfig()

VARIANTS = {
    "swin_mlp_tiny_c24": TINY,
    "swin_mlp_tiny_c12": TINY.replace(heads=(8, 16, 32, 64)),
    "swin_mlp_tiny_c6": TINY.replace(heads=(16, 32, 64, 128)),
    "swin_mlp_base": TINY.replace(image_size=224, window_size=7, dims=(128, 256, 512, 1024), depths=(2, 2, 18, 2)),
}

REFERENCE_NAMES = [
    (r"\.spatial_mlp\.", ".token.inner."),
    *SWIN_STAGE_NAMES,
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: SwinMLP) -> dict[str, Tensor]:
    """Takes the matrices over a window's tokens apart, which are stored with (head, token) as one axis."""
    converted = dict(state)
    for name, weight in state.items():
        if name.endswith("spatial_mlp.weight"):
            tokens = weight.shape[1]
            converted[name] = weight.reshape(-1, tokens, tokens)
            bias = name.replace("weight", "bias")
            converted[bias] = state[bias].reshape(-1, tokens)
    return position_map(converted, "absolute_pos_embed", model.config.grid)
