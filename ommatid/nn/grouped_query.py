"""Attention whose keys and values serve several queries' heads each, around any way to attend."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ommatid.ops.attention import attend_causally
from ommatid.ops.rotary import rotate_halves
from ommatid.ops.sigmoid_attention import repeat_heads

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values (B, N, heads, d) -> (B, N, heads * d)."""


class GroupedQueryAttention(nn.Module):
    """Self-attention of a sequence with fewer heads of keys than of queries, without biases: (B, N, C) -> (B, N, C).

    "GQA" (arXiv 2305.13245), as in Llama 2. Cost: (2 + 2 key_heads / heads) N C^2 multiply-adds, and those of `attend`.

    Args:
        dim: C.
        heads: number of heads; divides C.
        key_heads: number of heads of keys and values; divides `heads`.
        attend: the attention itself. It has no weights, and may be another one after training: `layer.attend = ...`.
        rope: rotary positions; an even number of channels a head.
    """

    def __init__(
        self, dim: int, heads: int, key_heads: int, *, attend: Attend = attend_causally, rope: bool = True
    ) -> None:
        super().__init__()
        width = dim // heads
        self.heads, self.key_heads = heads, key_heads
        self.attend = attend
        self.rope = rope
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, key_heads * width, bias=False)
        self.value = nn.Linear(dim, key_heads * width, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.proj(self.attend(*self.project(tokens)))

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> query, key and value, (B, N, heads, d) each."""
        query = self.query(tokens).unflatten(-1, (self.heads, -1))
        key, value = (layer(tokens).unflatten(-1, (self.key_heads, -1)) for layer in (self.key, self.value))
        if self.rope:
            query, key = rotate_halves(query), rotate_halves(key)
        return query, repeat_heads(key, self.heads), repeat_heads(value, self.heads)
