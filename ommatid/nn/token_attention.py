"""Attention of sequences that come with positions, or with pairs that may not meet."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.nn.residual import MakeNorm
from ommatid.ops.attention import attend

Turn = Callable[[Tensor], Tensor]
"""What queries or keys (B, N, heads, d) go through before they meet, such as a rotation by their positions."""


class TokenAttention(nn.Module):
    """Multi-head self-attention of a sequence: (B, N, C) -> (B, N, C).

    "Attention Is All You Need" (arXiv 1706.03762). Cost: 4 N C^2 + 2 N^2 C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        qkv: the projection C -> 3 C, ordered (3, heads, C / heads); a linear layer where None.
        bias: of the linear layers.
        norm: makes what norms queries and keys by head, of the width C / heads; none where None.
    """

    def __init__(
        self, dim: int, heads: int, *, qkv: nn.Module | None = None, bias: bool = True, norm: MakeNorm | None = None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = qkv or nn.Linear(dim, 3 * dim, bias=bias)
        self.query_norm = norm(dim // heads) if norm else nn.Identity()
        self.key_norm = norm(dim // heads) if norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, tokens: Tensor, turn: Turn | None = None, bias: Tensor | None = None) -> Tensor:
        """`bias`: added to the scaled scores, broadcastable to (B, heads, N, N); or booleans, True for allowed."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        query, key = turned(self.query_norm(query), turn), turned(self.key_norm(key), turn)
        return self.proj(attend(query, key, value, bias=bias))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


class TokenCrossAttention(nn.Module):
    """Multi-head attention of a sequence to another one: (B, N, C), (B, M, C) -> (B, N, C).

    Cost: 2 (N + M) C^2 + 2 N M C multiply-adds. Arguments as in `TokenAttention`.
    """

    def __init__(self, dim: int, heads: int, *, bias: bool = True, norm: MakeNorm | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=bias)
        self.key_value = nn.Linear(dim, 2 * dim, bias=bias)
        self.query_norm = norm(dim // heads) if norm else nn.Identity()
        self.key_norm = norm(dim // heads) if norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(
        self,
        tokens: Tensor,
        memory: Tensor,
        turn: Turn | None = None,
        turn_memory: Turn | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """`bias`: as in `TokenAttention`, broadcastable to (B, heads, N, M)."""
        query = self.query(tokens).unflatten(-1, (self.heads, -1))
        key, value = self.key_value(memory).unflatten(-1, (2, self.heads, -1)).unbind(2)
        query, key = turned(self.query_norm(query), turn), turned(self.key_norm(key), turn_memory)
        return self.proj(attend(query, key, value, bias=bias))


def turned(heads: Tensor, turn: Turn | None) -> Tensor:
    return heads if turn is None else turn(heads)
