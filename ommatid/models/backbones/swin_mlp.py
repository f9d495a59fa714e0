"""Swin MLP: the pyramid of Swin, with a learned matrix over each shifted window's tokens in place of attention.

A variant in the code of "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (arXiv 2103.14030).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.names import BLOCK_NAMES, SWIN_STAGE_NAMES, WINDOW_PYRAMID_STEM_NAMES
from ommatid.models.reference import position_map
from ommatid.models.registry import register
from ommatid.models.window_pyramid import WindowPyramidConfig, window_pyramid_stem
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.embed import PatchMerging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import WindowMLP
from ommatid.nn.residual import stochastic_depth


@dataclass(frozen=True, kw_only=True)
class SwinMLPConfig(WindowPyramidConfig):
    image_size: int | tuple[int, int] = 256
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 8


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
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(config.patch_size, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = window_pyramid_stem(config)
        self.stages = pyramid_stages(
            dims, rates, PatchMerging, lambda i, j, rate: swin_mlp_block(config, i, j, drop_path=rate)
        )
        self.norm = nn.LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


def swin_mlp_block(config: SwinMLPConfig, stage: int, index: int, *, drop_path: float) -> Block:
    dim = config.dims[stage]
    window, shift = config.window_and_shift(stage, index)
    mixer = WindowMLP(dim, config.heads[stage], window, shift=shift)
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
    *WINDOW_PYRAMID_STEM_NAMES,
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
