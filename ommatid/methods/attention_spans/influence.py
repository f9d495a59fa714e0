"""What the loss would lose with each entry of a causal attention, to first order."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_influence(query: Tensor, key: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """The size of the loss's change when a key is taken from a query and its row is normed again: (B, heads, N, N).

    query, key, value: (B, heads, N, d). gradient: (B, heads, N, d), of the loss by the attention's output. Entries
    above the diagonal are 0. Rows that one key dominates give large values.
    """
    length = query.shape[2]
    causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    scores = (query @ key.mT * query.shape[-1] ** -0.5).masked_fill(~causal, -torch.inf)
    weights, slope = scores.softmax(-1), gradient @ value.mT
    rest = torch.finfo(weights.dtype).eps + 1 - weights
    change = -weights * (slope - (weights * slope).sum(-1, keepdim=True)) / rest
    # The first query has one key: nothing is left to norm again.
    change[..., 0, :] = -weights[..., 0, :] * slope[..., 0, :]
    return change.abs().tril()


def block_influence(influence: Tensor, block_size: int) -> Tensor:
    """Influence (B, heads, N, N) summed over blocks, the mean over samples: (heads, N / block, N / block)."""
    blocks = influence.unflatten(3, (-1, block_size)).unflatten(2, (-1, block_size))
    return blocks.sum((3, 5)).mean(0)
