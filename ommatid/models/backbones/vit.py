"""ViT / DeiT: an image is a sequence of patches, and a plain transformer reads it.

"An Image is Worth 16x16 Words" (arXiv 2010.11929); DeiT (arXiv 2012.12877) is the same network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_divisible, require_positive
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.reference import changed
from ommatid.models.registry import register
from ommatid.models.sizes import require_patches, whole_patches
from ommatid.nn.block import Block, Trunk
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.tokens import ClassToken, TokenSequence, sequence_on_grid


@dataclass(frozen=True, kw_only=True)
class ViTConfig(Config):
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    layer_scale: float | None = None
    class_token: bool = True
    global_pool: Literal["token", "avg"] = "token"
    fc_norm: bool = False

    def check(self) -> None:
        require_positive(depth=self.depth)
        require_divisible(self.dim, self.heads)
        require_patches(self.image_size, self.patch_size)
        pools = ("token", "avg") if self.class_token else ("avg",)
        require(
            self.global_pool in pools,
            "global_pool",
            self.global_pool,
            f"{' or '.join(pools)} here (class_token decides)",
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return whole_patches(self.image_size, self.patch_size)


@register("vit", ViTConfig)
class ViT(Backbone):
    """Plain Vision Transformer. Takes any image of at least one patch: the position table is resampled to its grid."""

    config: ViTConfig
    no_decay = ("position", "class_token.token")

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        self.sequence = TokenSequence(config.grid, config.dim, class_token=config.class_token)
        self.blocks = Trunk(
            *(
                Block(
                    config.dim,
                    Attention(config.dim, config.heads, qkv_bias=config.qkv_bias),
                    MLP(config.dim, int(config.dim * config.mlp_ratio)),
                    norm=LayerNorm,
                    layer_scale=config.layer_scale,
                    drop_path=rate,
                )
                for rate in rates
            ),
            special=int(config.class_token),
        )
        self.token_norm = nn.Identity() if config.fc_norm else LayerNorm(config.dim)
        self.pooled_norm = LayerNorm(config.dim) if config.fc_norm else nn.Identity()
        self.head = classifier(config.dim, config.num_classes)
        self.apply(init_linear_)
        if isinstance(self.sequence.class_token, ClassToken):
            nn.init.normal_(self.sequence.class_token.token, std=1e-6)

    def tokens(self, image: Tensor) -> Tensor:
        return self.blocks(self.sequence(self.stem(channels_last(image))), self._grid(image))

    def maps(self, image: Tensor) -> list[Tensor]:
        return [self._patches(self.tokens(image)).unflatten(1, self._grid(image))]

    def embed(self, image: Tensor) -> Tensor:
        if self.config.global_pool == "token":
            class_token = self.blocks.first(self.sequence(self.stem(channels_last(image))), self._grid(image))
            return self.pooled_norm(self.token_norm(class_token))
        return self.pooled_norm(self._patches(self.token_norm(self.tokens(image))).mean(1))

    def _grid(self, image: Tensor) -> tuple[int, int]:
        return whole_patches((image.shape[-2], image.shape[-1]), self.config.patch_size)

    def _patches(self, tokens: Tensor) -> Tensor:
        return tokens[:, int(self.config.class_token) :]


VARIANTS = {
    "vit_tiny": ViTConfig(dim=192, heads=3),
    "vit_small": ViTConfig(dim=384, heads=6),
    "vit_base_patch32": ViTConfig(dim=768, heads=12, patch_size=32),
    "vit_base": ViTConfig(dim=768, heads=12),
    "vit_large": ViTConfig(dim=1024, depth=24, heads=16),
}
VARIANTS |= {f"deit_{size}": VARIANTS[f"vit_{size}"] for size in ("tiny", "small", "base")}

REFERENCE_NAMES = [
    (r"^cls_token$", "sequence.class_token.token"),
    (r"^pos_embed$", "sequence.position"),
    (r"^patch_embed\.", "stem."),
    (r"^norm\.", "token_norm."),
    (r"^fc_norm\.", "pooled_norm."),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: ViT) -> dict[str, Tensor]:
    """Resamples the position table of square weights for another image size."""
    grid, special = model.config.grid, int(model.config.class_token)
    return changed(state, "^pos_embed$", lambda table: sequence_on_grid(table, grid, special=special))
