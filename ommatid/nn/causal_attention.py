"""Attention of a text: no token looks at later ones."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CausalAttention(nn.Module):
    """Multi-head self-attention to a token itself and those before it: (B, N, C) -> (B, N, C).

    GPT-2, which CLIP's texts are read by (arXiv 2103.00020). Cost: 4 N C^2 + N^2 C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.proj(mixed.transpose(1, 2).flatten(2))
