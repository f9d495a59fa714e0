"""Attention of learned queries, to one another and to the cells of a map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.ops.attention import attend


class QueryAttention(nn.Module):
    """Multi-head attention with queries, keys and values of their own: (B, Q, C), (B, N, C), (B, N, C) -> (B, Q, C).

    One layer holds the three projections, as in "Attention Is All You Need" (arXiv 1706.03762).
    Cost: (2 Q + 2 N) C^2 + 2 Q N C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        for layer in (self.qkv, self.proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """`allowed`: True where a query may look at a key, broadcastable to (B, heads, Q, N)."""
        parts = zip((query, key, value), self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        heads = (F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)) for x, weight, bias in parts)
        return self.proj(attend(*heads, bias=allowed))


class PlacedAttention(nn.Module):
    """Queries that know their places look at one another: (B, Q, C), positions broadcastable to it -> (B, Q, C).

    Positions are added to queries and keys, not to values. DETR (arXiv 2005.12872).
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = QueryAttention(dim, heads)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        placed = x + position
        return self.attention(placed, placed, x)
