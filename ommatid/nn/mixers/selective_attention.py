"""Selective attention: every token says how sharply it looks at the others, and how much of itself it shows."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.attention import attend, attend_causally


class TokenTemperature(nn.Module):
    """tanh(w2 . GELU(W1 x + b1) + b2), which starts at 0: (B, N, C) -> (B, N).

    Args:
        dim: C.
        hidden: width between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, 1)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(tokens))).tanh().squeeze(-1)


class Temperature(nn.Module):
    """A positive factor for each token, the higher the sharper: (B, N, C) -> (B, N).

    It is 1 + sigmoid(alpha) ln(n) where a token sees n, or 1, and between 1 less and 1 more by what the token is.

    Args:
        dim: C.
        hidden: width of the network that looks at the token; None for none.
        position_aware: whether the number of visible tokens counts.
        causal: token number n sees n tokens, otherwise all see all.
    """

    def __init__(self, dim: int, hidden: int | None, *, position_aware: bool, causal: bool) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1)) if position_aware else None
        self.token = TokenTemperature(dim, hidden) if hidden else None
        self.causal = causal

    def forward(self, tokens: Tensor) -> Tensor:
        factors = tokens.new_ones(tokens.shape[:2])
        if self.alpha is not None:
            factors = factors + self.alpha.sigmoid() * self._visible(tokens).log()
        return factors if self.token is None else factors + self.token(tokens)

    def _visible(self, tokens: Tensor) -> Tensor:
        """How many tokens each sees: (N,)."""
        count = tokens.shape[1]
        return (
            torch.arange(1.0, count + 1, device=tokens.device)
            if self.causal
            else torch.full((count,), float(count), device=tokens.device)
        )


class SelectiveAttention(nn.Module):
    """softmax(t_q q k^T / sqrt(d)) (t_v v), with a temperature for each query and value: (B, ..., C) -> (B, ..., C).

    "Selective Attention: Enhancing Transformer through Principled Context Control" (arXiv 2411.12892).
    Cost: 4 H W C^2 + 2 (H W)^2 C + 2 r H W C multiply-adds, with r = hidden.

    Args:
        dim: C.
        heads: number of heads, which share the temperatures; divides C.
        hidden: width of the two networks that look at a token; None where what it is does not matter.
        position_aware: of "q" and "v", those whose temperature grows with the number of visible tokens.
        causal: tokens look at themselves and earlier ones only.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        hidden: int | None = 16,
        position_aware: Collection[str] = ("q",),
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.query_temperature, self.value_temperature = (
            Temperature(dim, hidden, position_aware=stream in position_aware, causal=causal) for stream in ("q", "v")
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, -2)
        return self.mix(tokens, *self.temperatures(tokens)).view(x.shape)

    def temperatures(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of the queries and of the values: (B, N, C) -> (B, N) each."""
        return self.query_temperature(tokens), self.value_temperature(tokens)

    def mix(self, tokens: Tensor, of_queries: Tensor, of_values: Tensor) -> Tensor:
        """What `forward` gives, of tokens (B, N, C) and their temperatures (B, N)."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        query, value = (
            part * factors[..., None, None].to(part.dtype)
            for part, factors in ((query, of_queries), (value, of_values))
        )
        return self.proj((attend_causally if self.causal else attend)(query, key, value))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
