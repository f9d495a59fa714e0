"""Causal attention that gets sharper from token to token, as the number of visible ones grows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.ops.attention import attend_causally


class PositionTemperedAttention(nn.Module):
    """Causal attention in which the scores of query n, from 1, are t_n times as large: (B, N, C) -> (B, N, C).

    t_n = 1 + exp(-exp(beta)) ln(n), with one learned beta. The position-aware part of selective attention
    (arXiv 2411.12892). Cost: 4 N C^2 + 2 N^2 C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        bias: of the projections.
        beta: its initial value; 1.5 for a training from scratch, 2 for trained weights.
    """

    def __init__(self, dim: int, heads: int, *, bias: bool = True, beta: float = 1.5) -> None:
        super().__init__()
        self.heads = heads
        self.beta = nn.Parameter(torch.full((1,), beta))
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        factors = self.temperatures(tokens.shape[1])[:, None, None].to(query.dtype)
        return self.proj(attend_causally(query * factors, key, value))

    def temperatures(self, tokens: int) -> Tensor:
        """(N,): t_n; the higher the sharper."""
        places = torch.arange(1.0, tokens + 1, device=self.beta.device)
        return 1 + (-self.beta.exp()).exp() * places.log()
