"""Attention of a sequence that knows how far back every earlier token is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.ops.attention import attend
from ommatid.ops.relative_skew import backward_scores
from ommatid.ops.tempered_attention import tempered_attention_weights


class RelativeAttention(nn.Module):
    """softmax(q_i . (k_j + e_(i-j)) / sqrt(d)), with an embedding for every distance back: (B, N, C) -> (B, N, C).

    Music Transformer (arXiv 1809.04281). Later keys, which are seen where not `causal`, have no embedding.
    Cost: 4 N C^2 + 3 N^2 C multiply-adds.

    Args:
        dim: C.
        heads: number of heads, which share the embeddings; divides C.
        max_tokens: the largest N.
        causal: tokens look at themselves and earlier ones only.
    """

    def __init__(self, dim: int, heads: int, max_tokens: int, *, causal: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.distance = nn.Parameter(torch.rand(max_tokens, dim // heads))
        self.proj = nn.Linear(dim, dim)
        for layer in (self.qkv, self.proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self._project(tokens)
        return self.proj(attend(query, key, value, bias=self._bias(query)))

    def weights(self, tokens: Tensor) -> Tensor:
        """What `forward` attends with: (B, N, C) -> (B, heads, N, N)."""
        query, key, _ = self._project(tokens)
        return tempered_attention_weights(query, key, bias=self._bias(query))

    def _project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return query, key, value

    def _bias(self, query: Tensor) -> Tensor:
        """What is added to the scaled scores: (B, heads, N, N)."""
        scores = backward_scores((query * query.shape[-1] ** -0.5).transpose(1, 2), self.distance)
        if not self.causal:
            return scores
        return scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), -torch.inf)
