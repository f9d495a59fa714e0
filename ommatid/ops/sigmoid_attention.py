"""Sigmoid attention: every weight by itself, instead of a softmax over keys.

"Theory, Analysis, and Best Practices for Sigmoid Self-Attention" (arXiv 2409.04431).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sigmoid_attention_weights(
    query: Tensor,
    key: Tensor,
    *,
    bias: float,
    scale: float | None = None,
    allowed: Tensor | None = None,
    alibi: Tensor | None = None,
) -> Tensor:
    """sigmoid(q k^T * scale + alibi + bias), 0 where a pair is not allowed.

    Args:
        query: (B, N, heads, d).
        key: (B, M, key heads, d); each key head serves heads / key heads consecutive query heads.
        bias: of every score; -log(M) makes the weights of a query sum to about 1 at the start of a training.
        scale: of the products; d ** -0.5 where None.
        allowed: (N, M) booleans; every pair where None.
        alibi: (heads, N, M), added to the scores.

    Returns:
        (B, heads, N, M).
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    keys = repeat_heads(key, query.shape[2])
    scores = (query * scale).transpose(1, 2) @ keys.permute(0, 2, 3, 1)
    if alibi is not None:
        scores = scores + alibi
    weights = torch.sigmoid(scores + bias)
    return weights if allowed is None else weights.masked_fill(~allowed, 0)


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """(B, M, key heads, d) -> (B, M, heads, d): each head repeated in place."""
    return x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], dim=2)


def aligned_distance(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """(queries, keys): how far each query lies behind each key, the last query being aligned with the last key."""
    return torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)


def window_mask(distance: Tensor, *, causal: bool, window: tuple[int, int] | None) -> Tensor:
    """Which (query, key) pairs may meet: no later keys where `causal`, none beyond window = (left, right)."""
    allowed = torch.ones_like(distance, dtype=torch.bool)
    if causal:
        allowed &= distance >= 0
    if window is not None:
        left, right = window
        allowed &= (distance <= left) & (distance >= -right)
    return allowed


def alibi_bias(distance: Tensor, slopes: Sequence[float]) -> Tensor:
    """(heads, N, M): minus slope times distance. ALiBi (arXiv 2108.12409)."""
    return -torch.tensor(slopes, device=distance.device)[:, None, None] * distance.abs()
