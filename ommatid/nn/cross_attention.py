"""Attention of one set of tokens to another, of a width of its own."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.ops.attention import attend


class CrossAttention(nn.Module):
    """Multi-head attention: (B, Q, C), (B, N, D), (B, N, D) -> (B, Q, C).

    "Attention Is All You Need" (arXiv 1706.03762). Where keys and values are made of the queries' own width by one
    layer, there is `QueryAttention`. Cost: 2 Q C I + 2 N D I + 2 Q N I multiply-adds.

    Args:
        dim: C.
        heads: number of heads.
        key_dim: D; C where None.
        inner: I, the heads' widths together; C where None. A multiple of `heads`.
    """

    def __init__(self, dim: int, heads: int, *, key_dim: int | None = None, inner: int | None = None) -> None:
        super().__init__()
        key_dim, inner = key_dim or dim, inner or dim
        self.heads = heads
        self.query = nn.Linear(dim, inner)
        self.key = nn.Linear(key_dim, inner)
        self.value = nn.Linear(key_dim, inner)
        self.proj = nn.Linear(inner, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        layers = zip((self.query, self.key, self.value), (query, key, value), strict=True)
        return self.proj(attend(*(layer(x).unflatten(-1, (self.heads, -1)) for layer, x in layers)))
