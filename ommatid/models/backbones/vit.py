"""ViT / DeiT: an image is a sequence of patches, and a plain transformer reads it.

"An Image is Worth 16x16 Words" (arXiv 2010.11929); DeiT (arXiv 2012.12877) is the same network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, pair
from ommatid.models.config import Config, require, require_divisible
from ommatid.models.registry import register
from ommatid.nn.block import Block
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention
from ommatid.nn.position import resample_positions
from ommatid.nn.residual import stochastic_depth


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
        require_divisible(self.dim, self.heads)
        require(min(self.grid) > 0, "image_size", self.image_size, f"at least one patch of {self.patch_size} a side")
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
        height, width = pair(self.image_size)
        return height // self.patch_size, width // self.patch_size


@register("vit", ViTConfig)
class ViT(Backbone):
    """Plain Vision Transformer. Takes any image of at least one patch: the position table is resampled to its grid."""

    config: ViTConfig
    no_decay = ("position", "class_token")

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        norm = partial(nn.LayerNorm, eps=1e-6)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        rows, columns = config.grid
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim)) if config.class_token else None
        self.position = nn.Parameter(torch.zeros(1, int(config.class_token) + rows * columns, config.dim))
        self.blocks = nn.Sequential(
            *(
                Block(
                    config.dim,
                    Attention(config.dim, config.heads, qkv_bias=config.qkv_bias),
                    MLP(config.dim, int(config.dim * config.mlp_ratio)),
                    norm=norm,
                    layer_scale=config.layer_scale,
                    drop_path=rate,
                )
                for rate in rates
            )
        )
        self.token_norm = nn.Identity() if config.fc_norm else norm(config.dim)
        self.pooled_norm = norm(config.dim) if config.fc_norm else nn.Identity()
        self.head = classifier(config.dim, config.num_classes)
        self.apply(init_linear_)
        nn.init.trunc_normal_(self.position, std=0.02)
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=1e-6)

    def tokens(self, image: Tensor) -> Tensor:
        patches = self.stem(channels_last(image))
        grid = (patches.shape[1], patches.shape[2])
        tokens = patches.flatten(1, 2)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.blocks(tokens + self.positions(grid))

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """(1, N, D) for a grid of patches; the class token's own position, if any, is first and never resampled."""
        if grid == self.config.grid:
            return self.position
        return resample_table(self.position, self.config.grid, grid)

    def maps(self, image: Tensor) -> list[Tensor]:
        size = self.config.patch_size
        rows, columns = image.shape[-2] // size, image.shape[-1] // size
        return [self._patches(self.tokens(image)).unflatten(1, (rows, columns))]

    def embed(self, image: Tensor) -> Tensor:
        tokens = self.token_norm(self.tokens(image))
        pooled = tokens[:, 0] if self.config.global_pool == "token" else self._patches(tokens).mean(1)
        return self.pooled_norm(pooled)

    def _patches(self, tokens: Tensor) -> Tensor:
        return tokens[:, int(self.config.class_token) :]


def resample_table(table: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """A position table (1, [class] + h * w, D) for another grid of patches."""
    special, patches = table.split([table.shape[1] - grid[0] * grid[1], grid[0] * grid[1]], dim=1)
    return torch.cat([special, resample_positions(patches.unflatten(1, grid), new_grid).flatten(1, 2)], dim=1)


VARIANTS = {
    "vit_tiny": ViTConfig(dim=192, heads=3),
    "vit_small": ViTConfig(dim=384, heads=6),
    "vit_base_patch32": ViTConfig(dim=768, heads=12, patch_size=32),
    "vit_base": ViTConfig(dim=768, heads=12),
    "vit_large": ViTConfig(dim=1024, depth=24, heads=16),
}
VARIANTS |= {f"deit_{size}": VARIANTS[f"vit_{size}"] for size in ("tiny", "small", "base")}

REFERENCE_NAMES = [
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "position"),
    (r"^patch_embed\.", "stem."),
    (r"\.norm1\.", ".token.norm."),
    (r"\.norm2\.", ".channel.norm."),
    (r"\.attn\.", ".token.inner."),
    (r"\.mlp\.", ".channel.inner."),
    (r"\.ls1\.", ".token.scale."),
    (r"\.ls2\.", ".channel.scale."),
    (r"^norm\.", "token_norm."),
    (r"^fc_norm\.", "pooled_norm."),
]


def convert_reference(state: dict[str, Tensor], model: ViT) -> dict[str, Tensor]:
    """Resamples the position table of square weights for another image size."""
    special = int(model.config.class_token)
    side = round((state["pos_embed"].shape[1] - special) ** 0.5) if "pos_embed" in state else 0
    if side * side + special != (state["pos_embed"].shape[1] if side else 0) or (side, side) == model.config.grid:
        return state
    return state | {"pos_embed": resample_table(state["pos_embed"], (side, side), model.config.grid)}
