"""ViR: a plain vision transformer that reads its patches causally, by retention; the class token comes last.

"ViR: Towards Efficient Vision Retention Backbones" (arXiv 2310.19731), its isotropic form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require_divisible, require_positive
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.reference import changed
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, pair, require_exactly, require_patches, whole_patches
from ommatid.nn.block import Block
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Retention
from ommatid.nn.mixers.retention import Form
from ommatid.nn.norm import LayerNorm
from ommatid.nn.position import AbsolutePosition, positions_on_grid
from ommatid.nn.residual import stochastic_depth


@dataclass(frozen=True, kw_only=True)
class ViRConfig(Config):
    """`image_size` is fixed. `chunk_size` is that of the chunkwise form and changes no result.

    `softmax` is on record only: the one public code puts a softmax into its parallel form, where it is no longer
    retention, and its published configurations say so. This model computes retention, as the paper defines it.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    layer_scale: float | None = 1e-5
    pool: Literal["token_last", "avg"] = "token_last"
    softmax: bool = False
    chunk_size: int = 64

    def check(self) -> None:
        require_divisible(self.dim, self.heads)
        require_patches(self.image_size, self.patch_size)
        require_positive(chunk_size=self.chunk_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return whole_patches(self.image_size, self.patch_size)


@register("vir", ViRConfig)
class ViR(Backbone):
    """Vision Retention network. Takes images of `image_size` only."""

    config: ViRConfig
    no_decay = ("position.table", "class_token")

    def __init__(self, config: ViRConfig) -> None:
        super().__init__(config)
        self.image_sizes = ImageSizes(fixed=pair(config.image_size))
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        self.position = AbsolutePosition(config.grid, config.dim)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim)) if config.pool == "token_last" else None
        self.blocks = nn.Sequential(
            *(
                Block(
                    config.dim,
                    Retention(config.dim, config.heads, chunk_size=config.chunk_size),
                    MLP(config.dim, int(config.dim * config.mlp_ratio)),
                    norm=LayerNorm,
                    layer_scale=config.layer_scale,
                    drop_path=rate,
                )
                for rate in rates
            )
        )
        self.token_norm = LayerNorm(config.dim) if config.pool == "token_last" else nn.Identity()
        self.pooled_norm = LayerNorm(config.dim) if config.pool == "avg" else nn.Identity()
        self.head = classifier(config.dim, config.num_classes)
        self.apply(init_linear_)
        nn.init.normal_(self.position.table, std=0.02)
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=1e-6)

    def use_form(self, form: Form) -> None:
        """Computes retention in another of its three equal forms from now on."""
        for part in self.modules():
            if isinstance(part, Retention):
                part.form = form

    def tokens(self, image: Tensor) -> Tensor:
        """(B, N, C) after the last block, before the final norm; the class token, if any, is last."""
        require_exactly(image, self.config.image_size)
        patches = self.position(self.stem(channels_last(image))).flatten(1, 2)
        if self.class_token is None:
            return self.blocks(patches)
        return self.blocks(torch.cat([patches, self.class_token.expand(patches.shape[0], -1, -1)], dim=1))

    def maps(self, image: Tensor) -> list[Tensor]:
        rows, columns = self.config.grid
        return [self.tokens(image)[:, : rows * columns].unflatten(1, (rows, columns))]

    def embed(self, image: Tensor) -> Tensor:
        return self.pooled(self.tokens(image))

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, N, C) after the last block -> (B, C)."""
        return self.pooled_norm(tokens.mean(1)) if self.class_token is None else self.token_norm(tokens[:, -1])


SMALL = ViRConfig(softmax=True)

VARIANTS = {
    "vir_small": SMALL,
    "vir_base": SMALL.replace(dim=768, heads=12),
    "vir_large": SMALL.replace(dim=1024, depth=24, heads=16),
    "vir_large_patch14": SMALL.replace(dim=1024, depth=24, heads=16, patch_size=14),
}

REFERENCE_NAMES = [
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "position.table"),
    (r"^patch_embed\.", "stem."),
    (r"\.retention\.qkv\.", ".token.inner.qkv."),
    (r"\.retention\.out_proj\.", ".token.inner.proj."),
    (r"^norm\.", "token_norm."),
    (r"^fc_norm\.", "pooled_norm."),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: ViR) -> dict[str, Tensor]:
    """Gives the position table, stored as a sequence, its two axes; resampled where the weights are of another size."""
    return changed(state, "^pos_embed$", lambda table: positions_on_grid(table, model.config.grid))


def reference_outputs(model: ViR, image: Tensor) -> dict[str, Tensor]:
    """The cases' tokens in recurrent and in chunkwise form, normed; and logits, from the recurrent form."""
    model.use_form("recurrent")
    recurrent = model.tokens(image)
    model.use_form("chunkwise")
    chunkwise = model.tokens(image)
    return {
        "logits": model.head(model.pooled(recurrent)),
        "features_recurrent": model.token_norm(recurrent),
        "features_chunkwise": model.token_norm(chunkwise),
    }
