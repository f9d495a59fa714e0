"""ConViT: a plain transformer whose early layers start as convolutions and may leave locality.

"ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases" (arXiv 2103.10697).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_divisible, require_positive
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.reference import changed, join_layers
from ommatid.models.registry import register
from ommatid.models.sizes import require_patches, whole_patches
from ommatid.nn.block import Block, first_token
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention, GatedPositionalAttention
from ommatid.nn.norm import LayerNorm
from ommatid.nn.position import AbsolutePosition, positions_on_grid
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.tokens import ClassToken


@dataclass(frozen=True, kw_only=True)
class ConViTConfig(Config):
    """The first `local_layers` blocks use gated positional attention; `locality_strength` is that of their start."""

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 192
    depth: int = 12
    heads: int = 4
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    local_layers: int = 10
    locality_strength: float = 1.0
    use_pos_embed: bool = True

    def check(self) -> None:
        require_divisible(self.dim, self.heads)
        require_positive(depth=self.depth)
        require(self.local_layers >= 0, "local_layers", self.local_layers, "0 or more")
        require_patches(self.image_size, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return whole_patches(self.image_size, self.patch_size)

    @property
    def class_token(self) -> bool:
        """Whether there is a class token: it joins in front of the first ordinary block, if there is one."""
        return self.local_layers < self.depth


@register("convit", ConViTConfig)
class ConViT(Backbone):
    """ConViT. Takes any image of at least one patch: the position table, if any, is resampled to its grid.

    Without ordinary blocks the classifier reads the first patch, as in the reference.
    """

    config: ConViTConfig
    no_decay = ("position.table", "class_token.token")

    def __init__(self, config: ConViTConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        blocks = [convit_block(config, index, drop_path=rate) for index, rate in enumerate(rates)]
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        self.position = AbsolutePosition(config.grid, config.dim) if config.use_pos_embed else nn.Identity()
        self.local_blocks = nn.Sequential(*blocks[: config.local_layers])
        self.class_token = ClassToken(config.dim) if config.class_token else nn.Identity()
        self.blocks = nn.Sequential(*blocks[config.local_layers :])
        self.norm = LayerNorm(config.dim)
        self.head = classifier(config.dim, config.num_classes)
        self.apply(init_linear_)
        for part in self.modules():
            if isinstance(part, GatedPositionalAttention):
                part.init_locality_(config.locality_strength)

    @property
    def body(self) -> list[nn.Module]:
        return [*self.local_blocks, *self.blocks]

    def local_map(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, rows, columns, D), after the gated positional blocks."""
        return self.local_blocks(self.position(self.stem(channels_last(image))))

    def tokens(self, image: Tensor) -> Tensor:
        return self._joined(self.local_map(image))

    def maps(self, image: Tensor) -> list[Tensor]:
        local = self.local_map(image)
        return [self._joined(local)[:, int(self.config.class_token) :].view(local.shape)]

    def embed(self, image: Tensor) -> Tensor:
        sequence = self.class_token(self.local_map(image).flatten(1, 2))
        return self.norm(first_token(self.blocks, sequence) if self.config.class_token else sequence[:, 0])

    def _joined(self, local: Tensor) -> Tensor:
        """The patches (B, rows, columns, D) behind a class token, through the ordinary blocks: (B, N, D)."""
        return self.blocks(self.class_token(local.flatten(1, 2)))


def convit_block(config: ConViTConfig, index: int, *, drop_path: float) -> Block:
    mixer = GatedPositionalAttention if index < config.local_layers else Attention
    return Block(
        config.dim,
        mixer(config.dim, config.heads, qkv_bias=config.qkv_bias),
        MLP(config.dim, int(config.dim * config.mlp_ratio)),
        norm=LayerNorm,
        drop_path=drop_path,
    )


VARIANTS = {
    "convit_tiny": ConViTConfig(),
    "convit_small": ConViTConfig(dim=432, heads=9),
    "convit_base": ConViTConfig(dim=768, heads=16),
}

REFERENCE_NAMES = [
    (r"^cls_token$", "class_token.token"),
    (r"^pos_embed$", "position.table"),
    (r"^patch_embed\.", "stem."),
    (r"\.attn\.pos_proj\.", ".token.inner.position."),
    (r"\.attn\.gating_param$", ".token.inner.gate"),
    *BLOCK_NAMES,
]

REFERENCE_IGNORED = [r"\.rel_indices$"]


def convert_reference(state: dict[str, Tensor], model: ConViT) -> dict[str, Tensor]:
    """Joins queries and keys with values, separates the two kinds of blocks, gives the position table its two axes."""
    config = model.config

    def ours(match: re.Match[str]) -> str:
        index = int(match[1]) - config.local_layers
        return f"blocks.{index}." if index >= 0 else f"local_blocks.{match[1]}."

    joined = join_layers(state, ("qk", "v"), "qkv")
    converted = {re.sub(r"^blocks\.(\d+)\.", ours, name): value for name, value in joined.items()}
    converted = changed(converted, "^pos_embed$", lambda table: positions_on_grid(table, config.grid))
    if not config.class_token:
        converted.pop("cls_token", None)  # the reference has one that nothing reads
    return converted


def reference_outputs(model: ConViT, image: Tensor) -> dict[str, Tensor]:
    return {"local_tokens": model.local_map(image).flatten(1, 2)}
