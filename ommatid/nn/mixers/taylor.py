"""Taylor attention: softmax attention as its second-order series, at a cost linear in tokens."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.linear_attention import causal_linear_attention, linear_attention
from ommatid.ops.taylor_features import taylor_features

EPS = 1e-12


class TaylorAttention(nn.Module):
    """Linear attention with weights 1 + s + s^2 / 2 for softmax's exp(s): (B, ..., C) -> (B, ..., C).

    Based (arXiv 2402.18668). Queries and keys are narrow, for their features are as many as their squares. Positions
    are read row by row; nothing tells where they are.
    Cost for D = 1 + d + d^2, d = feature_dim: 2 H W C (heads d + C) + 2 H W D C multiply-adds, and 64 H W heads D
    more where causal.

    Args:
        dim: C.
        heads: number of heads.
        head_dim: channels of a value; dim / heads where None.
        feature_dim: channels of a query or key.
        causal: tokens look at themselves and earlier ones only.
    """

    def __init__(
        self, dim: int, heads: int, *, head_dim: int | None = None, feature_dim: int = 16, causal: bool = True
    ) -> None:
        super().__init__()
        width = heads * (dim // heads if head_dim is None else head_dim)
        self.heads = heads
        self.causal = causal
        self.feature_dim = feature_dim  # also of heads that have lost channels since
        self.query = nn.Linear(dim, heads * feature_dim, bias=False)
        self.key = nn.Linear(dim, heads * feature_dim, bias=False)
        self.value = nn.Linear(dim, width, bias=False)
        self.proj = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, -2)
        if self.causal:
            return self.advance(tokens)[0].view(x.shape)
        return self.proj(linear_attention(*self.split(tokens), eps=EPS)).view(x.shape)

    def advance(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Goes on behind earlier tokens, with the state that they left: (B, N, C) -> (B, N, C), and the next state.

        The state is that of `causal_linear_attention`, whatever the number of tokens.
        """
        mixed, state = causal_linear_attention(*self.split(tokens), state=state, eps=EPS)
        return self.proj(mixed.flatten(2)), state

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> features of queries and keys, (B, N, heads, D), and values, (B, N, heads, e)."""
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value)
        )
        return taylor_features(query, self.feature_dim), taylor_features(key, self.feature_dim), value

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
