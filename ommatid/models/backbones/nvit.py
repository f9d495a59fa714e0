"""NViT: a distilled DeiT whose every block has widths of its own, as global structural pruning leaves it.

"Global Vision Transformer Pruning with Hessian-Aware Saliency" (arXiv 2110.04869). How it gets there is in
`ommatid/methods/pruning/nvit_schedule.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last
from ommatid.models.config import Config, require, require_positive, require_stages
from ommatid.models.reference import changed
from ommatid.models.registry import register
from ommatid.models.sizes import require_patches, whole_patches
from ommatid.nn.deploy import scale_output_
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import Residual, stochastic_depth
from ommatid.nn.tokens import resample_sequence
from ommatid.ops.attention import attend

SCALE = 64**-0.5
"""Of the scores: that of DeiT's heads, however narrow they have become."""


@dataclass(frozen=True, kw_only=True)
class NViTConfig(Config):
    """`heads`, `qk_dims`, `v_dims` (both per head) and `mlp_dims` have an entry for each block.

    The other functions of the system, steps on the way to such a model, read what is below `function`; there `heads`
    is a number.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 768
    heads: int | tuple[int, ...] = (12,) * 12
    qk_dims: tuple[int, ...] = (64,) * 12
    v_dims: tuple[int, ...] = (64,) * 12
    mlp_dims: tuple[int, ...] = (3072,) * 12
    function: Literal["pruned_model", "saliency", "schedule", "redistribution"] = "pruned_model"
    depth: int = 12
    qk: int = 64
    v: int = 64
    mlp: int = 3072
    patch_features: int = 768
    iterations: int = 1
    prune_per_iteration: int = 32
    count_unit: int = 16
    prune_max: int = 39000
    latency_regularization: float = 5e-4
    momentum: float = 0.9
    axes: tuple[tuple[float, ...], ...] = ()
    dims: tuple[int, ...] = ()

    def check(self) -> None:
        if self.function == "pruned_model":
            require(isinstance(self.heads, tuple), "heads", self.heads, "a list with an entry for each block")
            assert isinstance(self.heads, tuple)
            require_stages(heads=self.heads, qk_dims=self.qk_dims, v_dims=self.v_dims, mlp_dims=self.mlp_dims)
            require_positive(
                dim=self.dim, heads=self.heads, qk_dims=self.qk_dims, v_dims=self.v_dims, mlp_dims=self.mlp_dims
            )
            require_patches(self.image_size, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return whole_patches(self.image_size, self.patch_size)


class PrunedAttention(nn.Module):
    """Self-attention with heads of two widths, and a factor per token on what they see: (B, N, C) -> (B, N, C).

    Args:
        dim: C.
        heads: number of heads. qk, v: widths of their queries and keys, and of their values.
        grid: rows and columns of patches that the factors are for; two special tokens are in front.
    """

    def __init__(self, dim: int, heads: int, qk: int, v: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.heads = heads
        self.grid = grid
        self.query, self.key = nn.Linear(dim, heads * qk), nn.Linear(dim, heads * qk)
        self.value = nn.Linear(dim, heads * v)
        self.proj = nn.Linear(heads * v, dim)
        self.token_mask: Tensor
        self.register_buffer("token_mask", torch.ones(2 + grid[0] * grid[1], 1))

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        mask = resample_sequence(self.token_mask[None], self.grid, size)
        query, key, value = (
            (layer(tokens) * mask).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value)
        )
        return self.proj(attend(query, key, value, scale=SCALE))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


class DistilledHead(nn.Module):
    """Two classifiers, of the class token and of the distillation token: (B, 2 C) -> (B, classes), their mean."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.label = nn.Linear(dim, num_classes)
        self.teacher = nn.Linear(dim, num_classes)

    def both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2 C) -> label logits and teacher logits, each (B, classes)."""
        first, second = tokens.chunk(2, -1)
        return self.label(first), self.teacher(second)

    def forward(self, tokens: Tensor) -> Tensor:
        label, teacher = self.both(tokens)
        return (label + teacher) / 2


@register("nvit", NViTConfig)
class NViT(Backbone):
    """A pruned DeiT. The embedding is its class token beside its distillation token. Takes any image of whole patches:
    position table and token masks are resampled to its grid."""

    config: NViTConfig
    no_decay = ("position", "class_token", "distillation_token")

    def __init__(self, config: NViTConfig) -> None:
        super().__init__(config)
        assert isinstance(config.heads, tuple)
        dim = config.dim
        self.channels, self.strides = (dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [len(config.heads)])
        self.stem = PatchEmbed(config.in_channels, dim, config.patch_size)
        self.class_token, self.distillation_token = (nn.Parameter(0.02 * torch.randn(1, 1, dim)) for _ in range(2))
        self.position = nn.Parameter(0.02 * torch.randn(1, 2 + config.grid[0] * config.grid[1], dim))
        sizes = zip(config.heads, config.qk_dims, config.v_dims, config.mlp_dims, rates, strict=True)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "token": Residual(
                        dim, PrunedAttention(dim, heads, qk, v, config.grid), norm=LayerNorm, drop_path=rate
                    ),
                    "channel": Residual(dim, MLP(dim, mlp), norm=LayerNorm, drop_path=rate),
                }
            )
            for heads, qk, v, mlp, rate in sizes
        )
        self.norm = LayerNorm(dim)
        self.head = DistilledHead(dim, config.num_classes) if config.num_classes else nn.Identity()
        self.apply(init_linear_)

    @property
    def embed_dim(self) -> int:
        return 2 * self.config.dim

    def tokens(self, image: Tensor) -> Tensor:
        patches = self.stem(channels_last(image))
        size = (patches.shape[1], patches.shape[2])
        special = torch.cat([self.class_token, self.distillation_token], 1).expand(image.shape[0], -1, -1)
        tokens = torch.cat([special, patches.flatten(1, 2)], 1)
        tokens = tokens + resample_sequence(self.position, self.config.grid, size)
        for block in self.blocks:
            tokens = block["channel"](block["token"](tokens, size))  # type: ignore[index]
        return tokens

    def maps(self, image: Tensor) -> list[Tensor]:
        size = self.config.patch_size
        return [self.tokens(image)[:, 2:].unflatten(1, (image.shape[-2] // size, image.shape[-1] // size))]

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.tokens(image)[:, :2]).flatten(1)


VARIANTS: dict[str, NViTConfig] = {}

REFERENCE_NAMES = [
    (r"^cls_token$", "class_token"),
    (r"^dist_token$", "distillation_token"),
    (r"^pos_embed$", "position"),
    (r"^patch_embed\.", "stem."),
    (r"\.attn\.qkv\.token_mask$", ".token.inner.token_mask"),
    (r"\.attn\.qkv\.Q\.", ".token.inner.query."),
    (r"\.attn\.qkv\.K\.", ".token.inner.key."),
    (r"\.attn\.qkv\.V\.", ".token.inner.value."),
    (r"\.attn\.proj\.proj\.", ".token.inner.proj."),
    (r"\.norm1\.", ".token.norm."),
    (r"\.norm2\.", ".channel.norm."),
    (r"\.mlp\.", ".channel.inner."),
    (r"^head\.", "head.label."),
    (r"^head_dist\.", "head.teacher."),
]


def convert_reference(state: dict[str, Tensor], model: NViT) -> dict[str, Tensor]:
    """The reference embeds patches by a 1x1 convolution on their pixels, ordered by row, column and colour."""
    size = model.config.patch_size

    def as_patches(weight: Tensor) -> Tensor:
        return weight.reshape(len(weight), size, size, -1).permute(0, 3, 1, 2)

    return changed(state, r"^patch_embed\.proj\.weight$", as_patches)


def reference_outputs(model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
    if not isinstance(model, NViT) or not isinstance(model.head, DistilledHead):
        return {}
    label, teacher = model.head.both(model.embed(inputs["image"]))
    return {"logits_cls": label, "logits_dist": teacher}
