"""Attention to mask: one query for each class, whose attention to the tokens is its mask.

"SegViT: Semantic Segmentation with Plain Vision Transformers" (arXiv 2210.05844).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ommatid.nn.feedforward import MLP
from ommatid.nn.query_attention import QueryAttention

DROPOUT = 0.1


class ClassMasks(NamedTuple):
    """class_logits: (B, K, 2), present and absent. mask_logits: (B, K, N)."""

    class_logits: Tensor
    mask_logits: Tensor

    @property
    def presence(self) -> Tensor:
        """(B, K): how likely each class is anywhere in the image."""
        return self.class_logits.softmax(-1)[..., 0]


class MaskAttention(nn.Module):
    """Attention of queries (B, K, C) to tokens (B, N, C): the answer, and the scores (B, K, N), averaged over heads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, queries: Tensor, tokens: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """`kept` (B, N): 1 for tokens to look at."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q, queries), (self.k, tokens), (self.v, tokens))
        )
        scores = query @ key.mT * self.scale
        weights = self.dropout(scores.masked_fill(kept[:, None, None] == 0, -torch.inf).softmax(-1))
        return self.proj((weights @ value).transpose(1, 2).flatten(2)), scores.mean(1)


class MaskAttentionLayer(nn.Module):
    """Queries look at one another and at the tokens, and think each by itself; post-norm."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = QueryAttention(dim, heads)
        self.cross = MaskAttention(dim, heads)
        self.mlp = MLP(dim, 4 * dim, act=nn.ReLU())
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, queries: Tensor, tokens: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """The queries (B, K, C), and their scores (B, K, N)."""
        queries = self.norms[0](queries + self.dropout(self.attention(queries, queries, queries)))
        mixed, scores = self.cross(queries, tokens, kept)
        queries = self.norms[1](queries + self.dropout(mixed))
        return self.norms[2](queries + self.dropout(self.mlp(queries))), scores


class MaskAttentionHead(nn.Module):
    """Tokens (B, N, C) -> what classes there are, and where.

    Args:
        in_dim: C.
        dim: width of the queries.
        heads: of the attentions.
        depth: number of layers.
        num_classes: K.
    """

    def __init__(self, in_dim: int, dim: int, num_classes: int, *, heads: int, depth: int) -> None:
        super().__init__()
        self.project = nn.Linear(in_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Parameter(torch.empty(num_classes, dim))
        self.layers = nn.ModuleList(MaskAttentionLayer(dim, heads) for _ in range(depth))
        self.class_embed = nn.Linear(dim, 2)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, tokens: Tensor, kept: Tensor) -> ClassMasks:
        """`kept` (B, N): 1 for tokens to look at; the mask logits of the others mean nothing."""
        memory = self.norm(self.project(tokens))
        queries, scores = self.query.expand(tokens.shape[0], -1, -1), memory
        for layer in self.layers:
            queries, scores = layer(queries, memory, kept)
        return ClassMasks(self.class_embed(queries), scores)
