"""Swin V2: Swin made to scale, by norms after each branch, cosine attention and biases from log-spaced offsets.

"Swin Transformer V2: Scaling Up Capacity and Resolution" (arXiv 2111.09883).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import require, require_stages
from ommatid.models.names import SWIN_STAGE_NAMES, SWIN_TABLES, WINDOW_PYRAMID_STEM_NAMES
from ommatid.models.reference import position_map
from ommatid.models.registry import register
from ommatid.models.window_pyramid import WindowPyramidConfig, window_pyramid_stem
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.embed import PostNormPatchMerging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import cosine_window_attention
from ommatid.nn.residual import stochastic_depth


@dataclass(frozen=True, kw_only=True)
class SwinV2Config(WindowPyramidConfig):
    """`pretrained_window_sizes` are the windows that a fine-tuned model was trained with before; 0 for none."""

    image_size: int | tuple[int, int] = 256
    window_size: int = 8
    pretrained_window_sizes: tuple[int, ...] = (0, 0, 0, 0)
    qkv_bias: bool = True

    def check(self) -> None:
        super().check()
        pretrained = self.pretrained_window_sizes
        require_stages(dims=self.dims, pretrained_window_sizes=pretrained)
        require(min(pretrained) >= 0, "pretrained_window_sizes", pretrained, "positive integers, or 0 for none")


@register("swin_v2", SwinV2Config)
class SwinV2(Backbone):
    """Swin Transformer, version 2.

    Windows and the position table follow `image_size`, as in the reference. Images of any other size work too: maps
    are padded to whole windows, and absolute positions resampled. With fresh weights every block is the identity.
    """

    config: SwinV2Config
    no_decay = ("table", "network.0.weight", "network.2.weight", "log_scale")

    def __init__(self, config: SwinV2Config) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(config.patch_size, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = window_pyramid_stem(config)
        self.stages = pyramid_stages(
            dims, rates, PostNormPatchMerging, lambda i, j, rate: swin_v2_block(config, i, j, drop_path=rate)
        )
        self.norm = nn.LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


def swin_v2_block(config: SwinV2Config, stage: int, index: int, *, drop_path: float) -> Block:
    dim = config.dims[stage]
    window, shift = config.window_and_shift(stage, index)
    mixer = cosine_window_attention(
        dim,
        config.heads[stage],
        window,
        shift=shift,
        qkv_bias=config.qkv_bias,
        trained_window=config.pretrained_window_sizes[stage] or None,
    )
    mlp = MLP(dim, int(dim * config.mlp_ratio))
    return Block(dim, post_norm(dim, mixer), post_norm(dim, mlp), norm=nn.Identity, drop_path=drop_path)


def post_norm(dim: int, inner: nn.Module) -> nn.Sequential:
    """A residual branch whose norm comes last, and starts at zero."""
    norm = nn.LayerNorm(dim)
    nn.init.zeros_(norm.weight)
    return nn.Sequential(inner, norm)


TINY = SwinV2Config()
SMALL = TINY.replace(depths=(2, 2, 18, 2))
BASE = SMALL.replace(dims=(128, 256, 512, 1024), heads=(4, 8, 16, 32))
LARGE = SMALL.replace(dims=(192, 384, 768, 1536), heads=(6, 12, 24, 48))
PRETRAINED_192 = {"pretrained_window_sizes": (12, 12, 12, 6)}

VARIANTS = {
    "swin_v2_tiny_window8": TINY,
    "swin_v2_small_window8": SMALL,
    "swin_v2_base_window8": BASE,
    "swin_v2_tiny_window16": TINY.replace(window_size=16),
    "swin_v2_small_window16": SMALL.replace(window_size=16),
    "swin_v2_base_window16": BASE.replace(window_size=16),
    "swin_v2_base_window12_192": BASE.replace(image_size=192, window_size=12),
    "swin_v2_base_window12to16": BASE.replace(window_size=16, **PRETRAINED_192),
    "swin_v2_base_window12to24_384": BASE.replace(image_size=384, window_size=24, **PRETRAINED_192),
    "swin_v2_large_window12_192": LARGE.replace(image_size=192, window_size=12),
    "swin_v2_large_window12to16": LARGE.replace(window_size=16, **PRETRAINED_192),
    "swin_v2_large_window12to24_384": LARGE.replace(image_size=384, window_size=24, **PRETRAINED_192),
}

REFERENCE_NAMES = [
    (r"\.norm1\.", ".token.inner.1."),
    (r"\.norm2\.", ".channel.inner.1."),
    (r"\.attn\.logit_scale$", ".attn.similarity.log_scale"),
    (r"\.attn\.cpb_mlp\.", ".attn.bias.network."),
    (r"\.attn\.q_bias$", ".attn.qkv.query_bias"),
    (r"\.attn\.v_bias$", ".attn.qkv.value_bias"),
    (r"\.attn\.", ".token.inner.0."),
    (r"\.mlp\.", ".channel.inner.0."),
    *WINDOW_PYRAMID_STEM_NAMES,
    *SWIN_STAGE_NAMES,
]

REFERENCE_IGNORED = SWIN_TABLES


def convert_reference(state: dict[str, Tensor], model: SwinV2) -> dict[str, Tensor]:
    """Gives the absolute position table, stored as a sequence, its two axes."""
    return position_map(state, "absolute_pos_embed", model.config.grid)
