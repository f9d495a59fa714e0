"""Sparse then Prune: fine-tune with a penalty on attention, then remove the smallest weights of all, in one shot.

"Sparse then Prune: Toward Efficient Vision Transformers" (arXiv 2307.11988).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_divisible
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_patches, whole_patches
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.tokens import TokenSequence

PENALTY_WEIGHT = 0.01
"""Of the attention penalty beside the cross-entropy."""


def attention_penalty(weights: Tensor) -> Tensor:
    """The mean of ln(1 + a^2) over attention weights of any shape: a scalar."""
    return weights.square().log1p().mean()


def global_magnitude_masks(weights: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Booleans to keep: all but the round(ratio * weights) smallest magnitudes of all tensors together."""
    require(0 <= ratio <= 1, "ratio", ratio, "from 0 to 1")
    together = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    kept = torch.ones_like(together, dtype=torch.bool)
    kept[together.topk(round(ratio * together.numel()), largest=False).indices] = False
    parts = kept.split([weight.numel() for weight in weights.values()])
    return {name: part.view(weights[name].shape) for name, part in zip(weights, parts, strict=True)}


@dataclass(frozen=True, kw_only=True)
class SparseThenPruneConfig(PartConfig):
    """`regulariser` reads nothing."""

    function: Literal["model", "regulariser"] = "model"
    image_size: int | tuple[int, int] = 384
    patch_size: int = 16
    dim: int = 768
    mlp_dim: int = 3072
    heads: int = 12
    depth: int = 12
    num_classes: int = 10
    dropout: float = 0.1
    prune_ratio: float = 0.1

    def check(self) -> None:
        require_divisible(self.dim, self.heads)
        require_patches(self.image_size, self.patch_size)


class WeighedAttention(nn.Module):
    """Self-attention that also gives its weights: (B, N, C) -> (B, N, C), (B, heads, N, N)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2)), weights


class WeighedBlock(nn.Module):
    """A pre-norm block that also gives its attention weights. Dropout is on both branches, and inside the MLP."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WeighedAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, hidden, act=nn.Sequential(nn.GELU(), nn.Dropout(dropout)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        mixed, weights = self.attn(self.norm1(tokens))
        tokens = tokens + self.dropout(mixed)
        return tokens + self.dropout(self.mlp(self.norm2(tokens))), weights


class SparseViT(nn.Module):
    """image (B, 3, H, W) -> logits (B, classes), and the penalty () of its LAST block's attention, as published."""

    def __init__(self, config: SparseThenPruneConfig) -> None:
        super().__init__()
        self.stem = PatchEmbed(3, config.dim, config.patch_size)
        self.sequence = TokenSequence(whole_patches(config.image_size, config.patch_size), config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            WeighedBlock(config.dim, config.heads, config.mlp_dim, config.dropout) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.classifier = nn.Linear(config.dim, config.num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.dropout(self.sequence(self.stem(image.permute(0, 2, 3, 1))))
        for block in self.blocks:
            tokens, weights = block(tokens)
        return self.classifier(self.norm(tokens)[:, 0]), attention_penalty(weights)

    def candidates(self) -> dict[str, Tensor]:
        """What is pruned: weights of the patches, of every layer and norm of the blocks, and of the classifier."""
        parts: list[tuple[str, nn.Module]] = [("stem.proj", self.stem.proj)]
        leaves = ("norm1", "attn.query", "attn.key", "attn.value", "attn.out", "norm2", "mlp.fc1", "mlp.fc2")
        for index, block in enumerate(self.blocks):
            parts += [(f"blocks.{index}.{leaf}", block.get_submodule(leaf)) for leaf in leaves]
        parts.append(("classifier", self.classifier))
        return {f"{name}.weight": part.get_parameter("weight") for name, part in parts}


@register("sparse_then_prune", SparseThenPruneConfig)
class SparseThenPrune(Procedure):
    """The model, its loss for labels 0, 1, ... in order, and a copy that is pruned in one shot."""

    config: SparseThenPruneConfig

    def __init__(self, config: SparseThenPruneConfig) -> None:
        super().__init__(config)
        self.network = SparseViT(config)

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        logits, penalty = self.network(image)
        labels = torch.arange(len(image), device=image.device) % self.config.num_classes
        pruned = copy.deepcopy(self.network)
        masks = global_magnitude_masks(pruned.candidates(), self.config.prune_ratio)
        with torch.no_grad():
            for name, weight in pruned.candidates().items():
                weight.mul_(masks[name])
        return {
            "logits": logits,
            "sparse_loss": penalty[None],
            "total_loss": (F.cross_entropy(logits, labels) + PENALTY_WEIGHT * penalty)[None],
            "logits_pruned": pruned(image)[0],
            "kept": torch.stack([mask.float().mean() for mask in masks.values()]),
        }


@register_part("sparse_then_prune", "regulariser")
class Regulariser(Procedure):
    """logits (..., N), before their softmax -> loss (1)."""

    def forward(self, logits: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss": attention_penalty(logits.softmax(-1))[None]}


REFERENCE_NAMES = [
    (r"^embedding\.", "stem.proj."),
    (r"^cls_token$", "sequence.class_token.token"),
    (r"^transformer\.pos_embedding\.pos_embedding$", "sequence.position"),
    (r"^transformer\.encoder_layers\.", "blocks."),
    (r"^transformer\.norm\.", "norm."),
    (r"^", "network."),
]


def convert_reference(state: dict[str, Tensor], model: Procedure) -> dict[str, Tensor]:
    """Projections with an axis for heads, as in JAX, become matrices (out, in)."""
    return {name: _as_linear(name, value) for name, value in state.items()}


def _as_linear(name: str, value: Tensor) -> Tensor:
    if ".attn.out.weight" in name:
        return value.flatten(0, 1).T
    if ".attn." not in name or ".attn.out." in name:
        return value
    return value.flatten(1).T if name.endswith("weight") else value.flatten()
