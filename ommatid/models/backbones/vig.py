"""ViG: gated linear attention, forwards and backwards, mixes the tokens at a cost linear in their number.

"ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention" (arXiv 2405.18425).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, SWIN_STAGE_NAMES
from ommatid.models.reference import changed, one_later
from ommatid.models.registry import register
from ommatid.models.sizes import ceil_to_multiple, require_at_least, require_patches, whole_patches
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.embed import overlapping_merging, two_conv_stem
from ommatid.nn.feedforward import SwiGLU
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import GatedLinearAttention
from ommatid.nn.norm import RMSNorm
from ommatid.nn.position import AbsolutePosition, positions_on_grid
from ommatid.nn.residual import stochastic_depth

TokenNorm = partial(RMSNorm, eps=1e-6)


@dataclass(frozen=True, kw_only=True)
class ViGConfig(Config):
    """Two groups of fields; `arch` says which one counts.

    plain: `image_size` (of the position table), `dim`, `depth`, one number of `heads`, `layer_scale`.
    hierarchical: `dims`, `depths` and `heads` per stage.
    """

    arch: Literal["plain", "hierarchical"] = "plain"
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 192
    depth: int = 12
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 5, 2)
    heads: int | tuple[int, ...] = 3
    expand_k: float = 0.5
    output_act: bool = True
    conv_act: bool = True
    layer_scale: float | None = None

    def check(self) -> None:
        plain = self.arch == "plain"
        wanted = "one integer" if plain else "one integer for each stage"
        require(isinstance(self.heads, int) == plain, "heads", self.heads, wanted)
        require_stages(dims=self.stage_dims, depths=self.stage_depths, heads=self.stage_heads)
        require_divisible(self.stage_dims, self.stage_heads)
        require_positive(expand_k=self.expand_k)
        require_divisible([int(self.expand_k * dim) for dim in self.stage_dims], self.stage_heads)
        require(self.patch_size > 0 and self.patch_size % 2 == 0, "patch_size", self.patch_size, "an even integer")
        require_patches(self.image_size, self.patch_size)
        if not plain:
            require(self.layer_scale is None, "layer_scale", self.layer_scale, "null in the hierarchical form")

    @property
    def stage_dims(self) -> tuple[int, ...]:
        return (self.dim,) if self.arch == "plain" else self.dims

    @property
    def stage_depths(self) -> tuple[int, ...]:
        return (self.depth,) if self.arch == "plain" else self.depths

    @property
    def stage_heads(self) -> tuple[int, ...]:
        return (self.heads,) if isinstance(self.heads, int) else self.heads

    @property
    def stem_strides(self) -> tuple[int, int]:
        """Of the two convolutions of the stem."""
        return self.patch_size // 2, 2 if self.arch == "plain" else self.patch_size // 2

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the position table."""
        return whole_patches(self.image_size, self.patch_size)


@register("vig", ViGConfig)
class ViG(Backbone):
    """Vision GLA, plain or a pyramid. Takes any image of at least one patch: positions are resampled to its grid."""

    config: ViGConfig
    no_decay = ("position.table",)

    def __init__(self, config: ViGConfig) -> None:
        super().__init__(config)
        plain, dims = config.arch == "plain", config.stage_dims
        self.channels = dims
        self.strides = doubling_strides(config.stem_strides[0] * config.stem_strides[1], len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.stage_depths)
        act: nn.Module = nn.SiLU() if plain else nn.GELU()
        self.stem = two_conv_stem(config.in_channels, dims[0], strides=config.stem_strides, act=act)
        self.position = AbsolutePosition(config.grid, dims[0], antialias=False) if plain else nn.Identity()
        self.stages = pyramid_stages(
            dims, rates, overlapping_merging, lambda i, _, rate: vig_block(config, i, drop_path=rate)
        )
        self.norm = TokenNorm(dims[-1]) if plain else nn.LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)
        if plain:
            self.apply(init_gated_linear_attention_)

    def maps(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, self.strides[0])
        return pyramid(self.stages, self.position(self.stem(channels_last(image))))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


def vig_block(config: ViGConfig, stage: int, *, drop_path: float) -> Block:
    plain, dim = config.arch == "plain", config.stage_dims[stage]
    mixer = GatedLinearAttention(
        dim,
        config.stage_heads[stage],
        expand_k=config.expand_k,
        conv_act=config.conv_act,
        output_act=config.output_act,
        halve_twice=plain,
    )
    hidden = ceil_to_multiple(int(8 * dim / 3), 256 if plain else 32)
    norm = TokenNorm if plain else nn.LayerNorm
    return Block(dim, mixer, SwiGLU(dim, hidden), norm=norm, layer_scale=config.layer_scale, drop_path=drop_path)


def init_gated_linear_attention_(layer: nn.Module) -> None:
    """Undoes the general initialisation in the token mixers, which the plain model leaves to them."""
    if isinstance(layer, GatedLinearAttention):
        layer.reset_parameters()


H_TINY = ViGConfig(arch="hierarchical", patch_size=4, heads=(3, 6, 12, 24), output_act=False, conv_act=False)

VARIANTS = {
    "vig_tiny": ViGConfig(),
    "vig_small": ViGConfig(dim=384, heads=6, output_act=False, conv_act=False),
    "vig_base": ViGConfig(dim=768, heads=12, output_act=False, conv_act=False),
    "vig_h_tiny": H_TINY,
    "vig_h_small": H_TINY.replace(depths=(2, 2, 17, 2)),
    "vig_h_base": H_TINY.replace(depths=(2, 2, 17, 2), dims=(128, 256, 512, 1024), heads=(4, 8, 16, 32)),
}

REFERENCE_NAMES = [
    (r"^patch_embed\.(?:proj\.)?0\.", "stem.0.proj."),
    (r"^patch_embed\.(?:proj\.1|2)\.", "stem.0.norm."),
    (r"^patch_embed\.(?:proj\.3|5)\.", "stem.2.proj."),
    (r"^patch_embed\.(?:proj\.4|7)\.", "stem.2.norm."),
    (r"^layers\.(\d+)\.downsample\.1\.", one_later("stages.{}.downsample.proj.")),
    (r"^layers\.(\d+)\.downsample\.3\.", one_later("stages.{}.downsample.norm.")),
    (r"^blocks\.", "stages.0.blocks."),
    (r"^classifier\.", ""),
    (r"(blocks\.\d+)\.(?:attn_norm|norm)\.", r"\1.token.norm."),
    (r"(blocks\.\d+)\.(?:mlp_norm|norm2)\.", r"\1.channel.norm."),
    (r"\.(?:attn|op)\.", ".token.inner."),
    (r"\.in_proj\.0\.", ".conv."),
    (r"\.qkv_proj\.", ".qkv."),
    (r"\.gk_proj\.", ".decay."),
    (r"\.g_norm\.", ".global_norm."),
    (r"\.l_norm\.", ".local_norm."),
    (r"\.g_proj\.", ".gate."),
    (r"\.o_proj\.", ".proj."),
    (r"\.mlp\.(?:gate_proj|fc1)\.", ".channel.inner.fc1."),
    (r"\.mlp\.(?:down_proj|fc2)\.", ".channel.inner.fc2."),
    *SWIN_STAGE_NAMES,
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: ViG) -> dict[str, Tensor]:
    """Gives the position table, stored as a sequence, its two axes; resampled where the weights are of another size."""
    return changed(state, "^pos_embed$", lambda table: positions_on_grid(table, model.config.grid, antialias=False))
