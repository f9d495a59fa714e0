"""InLine: linear attention made injective and local, in the layouts of DeiT and of Swin.

"Bridging the Divide: Reconsidering Softmax and Linear Attention" (arXiv 2412.06590).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.attention_types import linear_blocks, name_windowed, require_whole_windows
from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, SWIN_STAGE_NAMES, SWIN_TABLES
from ommatid.models.reference import changed
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, pair, require_exactly, require_patches, whole_patches
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.embed import PatchEmbed, PatchMerging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import InjectiveLinearAttention, WindowAttention, Windowed
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.tokens import TokenSequence, sequence_on_grid
from ommatid.ops.windows import window_and_shift


@dataclass(frozen=True, kw_only=True)
class InLineConfig(Config):
    """Two groups of fields; `variant` says which one counts.

    inline_deit: `dim`, `depth` and one number of `heads`.
    inline_swin: `dims`, `depths`, `heads` per stage, `window_size`, and `attention_types`, a letter for each stage:
    I for InLine, S for softmax, M for both, then the number of InLine blocks that lead the stages M.
    """

    variant: Literal["inline_deit", "inline_swin"] = "inline_deit"
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 192
    depth: int = 12
    heads: int | tuple[int, ...] = 6
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    window_size: int = 56
    attention_types: str = "IIIS"
    mlp_ratio: float = 4.0
    qkv_bias: bool = True

    def check(self) -> None:
        require_patches(self.image_size, self.patch_size)
        if self.variant == "inline_deit":
            require(isinstance(self.heads, int), "heads", self.heads, "one integer")
            require_divisible(self.dim, self.stage_heads[0])
            return
        require(isinstance(self.heads, tuple), "heads", self.heads, "one integer for each stage")
        require_stages(dims=self.dims, depths=self.depths, heads=self.stage_heads)
        require_divisible(self.dims, self.stage_heads)
        require_positive(window_size=self.window_size)
        windows = [
            {self.window(stage, linear=linear)[0] for linear in kinds} for stage, kinds in enumerate(self.linear)
        ]
        require_whole_windows(pair(self.image_size), self.patch_size, windows)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return whole_patches(self.image_size, self.patch_size)

    @property
    def stage_heads(self) -> tuple[int, ...]:
        return (self.heads,) if isinstance(self.heads, int) else self.heads

    @property
    def linear(self) -> list[list[bool]]:
        """Which blocks of which stage are InLine (inline_swin)."""
        return linear_blocks(self.attention_types, self.depths, "I")

    def window(self, stage: int, *, linear: bool) -> tuple[int, int]:
        """(window, shift) of one kind of blocks in a stage (inline_swin)."""
        rows, columns = self.grid
        side = self.window_size if linear else max(7, self.window_size // 8)
        return window_and_shift((rows >> stage, columns >> stage), side)


@register("inline", InLineConfig)
class InLine(Backbone):
    """InLine-DeiT, which takes any image of at least one patch, or InLine-Swin, whose windows fix the image's size."""

    config: InLineConfig
    no_decay = ("position", "class_token.token", "table")

    def __init__(self, config: InLineConfig) -> None:
        super().__init__(config)
        if config.variant == "inline_swin":
            self.image_sizes = ImageSizes(fixed=pair(config.image_size))
        self.trunk = PlainTrunk(config) if config.variant == "inline_deit" else PyramidTrunk(config)
        self.channels, self.strides = self.trunk.channels, self.trunk.strides
        self.head = classifier(self.embed_dim, config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return self.trunk.maps(image)

    def tokens(self, image: Tensor) -> Tensor:
        return self.trunk.tokens(image) if isinstance(self.trunk, PlainTrunk) else super().tokens(image)

    def embed(self, image: Tensor) -> Tensor:
        return self.trunk.embed(image)


class PlainTrunk(nn.Module):
    """Patches behind a class token, InLine blocks, norm."""

    def __init__(self, config: InLineConfig) -> None:
        super().__init__()
        dim = config.dim
        self.channels, self.strides = (dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        self.stem = PatchEmbed(config.in_channels, dim, config.patch_size)
        self.sequence = TokenSequence(config.grid, dim)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                InjectiveLinearAttention(dim, config.stage_heads[0], qkv_bias=config.qkv_bias),
                MLP(dim, int(dim * config.mlp_ratio)),
                norm=LayerNorm,
                drop_path=rate,
            )
            for rate in rates
        )
        self.norm = LayerNorm(dim)

    def tokens(self, image: Tensor) -> Tensor:
        return self._run(image)[0]

    def maps(self, image: Tensor) -> list[Tensor]:
        tokens, size = self._run(image)
        return [tokens[:, 1:].unflatten(1, size)]

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.tokens(image)[:, 0])

    def _run(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The tokens (B, 1 + h w, D) after the last block, and the patches' (h, w)."""
        patches = self.stem(channels_last(image))
        size = (patches.shape[1], patches.shape[2])
        tokens = self.sequence(patches)
        for block in self.blocks:
            tokens = block(tokens, size)
        return tokens, size


class PyramidTrunk(nn.Module):
    """Swin's pyramid, with InLine or softmax attention in its windows."""

    def __init__(self, config: InLineConfig) -> None:
        super().__init__()
        dims = config.dims
        self.config = config
        self.channels, self.strides = dims, doubling_strides(config.patch_size, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = PatchEmbed(config.in_channels, dims[0], config.patch_size, norm=nn.LayerNorm(dims[0]))
        self.stages = pyramid_stages(
            dims, rates, PatchMerging, lambda i, j, rate: inline_swin_block(config, i, j, drop_path=rate)
        )
        self.norm = nn.LayerNorm(dims[-1])

    def maps(self, image: Tensor) -> list[Tensor]:
        require_exactly(image, self.config.image_size)
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


def inline_swin_block(config: InLineConfig, stage: int, index: int, *, drop_path: float) -> Block:
    dim, heads, linear = config.dims[stage], config.stage_heads[stage], config.linear[stage][index]
    window, shift = config.window(stage, linear=linear)
    shift = shift if index % 2 else 0
    mixer: nn.Module
    if linear:  # no mask: the windows around the border mix what the shift brought together
        attention = InjectiveLinearAttention(dim, heads, qkv_bias=config.qkv_bias)
        mixer = Windowed(attention, (window, window), shift=shift)
    else:
        mixer = WindowAttention(dim, heads, window, shift=shift, qkv_bias=config.qkv_bias)
    return Block(dim, mixer, MLP(dim, int(dim * config.mlp_ratio)), drop_path=drop_path)


DEIT = InLineConfig()
SWIN = InLineConfig(variant="inline_swin", patch_size=4, heads=(3, 6, 12, 24))
SWIN_BASE = SWIN.replace(
    dims=(128, 256, 512, 1024), depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), attention_types="IIMS2"
)

VARIANTS = {
    "inline_deit_tiny": DEIT,
    "inline_deit_small": DEIT.replace(image_size=288, dim=320, heads=10),
    "inline_deit_base": DEIT.replace(image_size=448, dim=384, heads=12),
    "inline_swin_tiny": SWIN,
    "inline_swin_small": SWIN.replace(depths=(2, 2, 18, 2), attention_types="IISS"),
    "inline_swin_base": SWIN_BASE,
    "inline_swin_base_384": SWIN_BASE.replace(image_size=384, window_size=96),
}

REFERENCE_NAMES = [
    (r"^cls_token$", "trunk.sequence.class_token.token"),
    (r"^pos_embed$", "trunk.sequence.position"),
    (r"^patch_embed\.", "trunk.stem."),
    (r"\.residual\.", ".kernels."),
    *SWIN_STAGE_NAMES,
    *BLOCK_NAMES,
    (r"^(stages|blocks|norm)\.", r"trunk.\1."),
]

REFERENCE_IGNORED = SWIN_TABLES


def convert_reference(state: dict[str, Tensor], model: InLine) -> dict[str, Tensor]:
    """inline_swin: finds the InLine blocks; inline_deit: resamples positions of square weights."""
    if model.config.variant == "inline_swin":
        return name_windowed(state, "residual.0.weight")
    return changed(state, "^pos_embed$", lambda table: sequence_on_grid(table, model.config.grid))
