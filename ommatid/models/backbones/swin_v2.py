"""Swin V2: Swin made to scale, by norms after each branch, cosine attention and biases from log-spaced offsets.

"Swin Transformer V2: Scaling Up Capacity and Resolution" (arXiv 2111.09883).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import SWIN_STAGE_NAMES, SWIN_TABLES
from ommatid.models.reference import position_map
from ommatid.models.registry import register
from ommatid.models.sizes import halved, require_patches, whole_patches
from ommatid.nn.block import Block, Stage, pyramid
from ommatid.nn.embed import PatchEmbed, PostNormPatchMerging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import cosine_window_attention
from ommatid.nn.position import AbsolutePosition
from ommatid.nn.residual import stochastic_depth
from ommatid.ops.windows import window_and_shift


@dataclass(frozen=True, kw_only=True)
class SwinV2Config(Config):
    """`pretrained_window_sizes` are the windows that a fine-tuned model was trained with before; 0 for none."""

    image_size: int | tuple[int, int] = 256
    patch_size: int = 4
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 8
    pretrained_window_sizes: tuple[int, ...] = (0, 0, 0, 0)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    absolute_position: bool = False
    patch_norm: bool = True

    def check(self) -> None:
        pretrained = self.pretrained_window_sizes
        require_stages(dims=self.dims, depths=self.depths, heads=self.heads, pretrained_window_sizes=pretrained)
        require_divisible(self.dims, self.heads)
        require_positive(window_size=self.window_size)
        require(min(pretrained) >= 0, "pretrained_window_sizes", pretrained, "positive integers, or 0 for none")
        require_patches(self.image_size, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches in the first stage."""
        return whole_patches(self.image_size, self.patch_size)


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
        dims, norm = config.dims, nn.LayerNorm
        self.channels, self.strides = dims, doubling_strides(config.patch_size, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = PatchEmbed(
            config.in_channels, dims[0], config.patch_size, norm=norm(dims[0]) if config.patch_norm else None
        )
        self.position = AbsolutePosition(config.grid, dims[0]) if config.absolute_position else nn.Identity()
        self.stages = nn.ModuleList(
            Stage(
                PostNormPatchMerging(dims[i - 1], dim) if i else nn.Identity(),
                [swin_v2_block(config, i, j, drop_path=rates[i][j]) for j in range(config.depths[i])],
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


def swin_v2_block(config: SwinV2Config, stage: int, index: int, *, drop_path: float) -> Block:
    dim = config.dims[stage]
    window, shift = window_and_shift(halved(config.grid, stage), config.window_size)
    mixer = cosine_window_attention(
        dim,
        config.heads[stage],
        window,
        shift=shift if index % 2 else 0,
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
    *SWIN_STAGE_NAMES,
]

REFERENCE_IGNORED = SWIN_TABLES


def convert_reference(state: dict[str, Tensor], model: SwinV2) -> dict[str, Tensor]:
    """Gives the absolute position table, stored as a sequence, its two axes."""
    return position_map(state, "absolute_pos_embed", model.config.grid)
