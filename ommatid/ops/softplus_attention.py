"""Softplus attention: weights that are positive and sum to 1 without an exponential, then sharpened.

"Softplus Attention with Re-weighting Boosts Length Extrapolation in Large Language Models" (arXiv 2501.13428).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def softplus_attention_weights(
    query: Tensor, key: Tensor, *, causal: bool = False, length_scale: bool = True, width: int | None = None
) -> Tensor:
    """softplus(c q k^T) over its sum, 0 where a query does not see a key: (B, heads, N, M), in float32 or better.

    Args:
        query: (B, N, heads, d). key: (B, M, heads, d).
        causal: queries see themselves and earlier keys only; there are as many queries as keys.
        length_scale: c is ln(d) ln(n) / sqrt(d), where a query sees n keys, so that the entropy of its weights stays
            the same for any n; otherwise 1 / sqrt(d).
        width: d in c, where it is not the number of channels, as after pruning.
    """
    width = width or query.shape[-1]
    if length_scale:
        query = query * (math.log(width) * visible_keys(query, key, causal=causal).log()[:, None, None])
    scores = (query * width**-0.5).transpose(1, 2) @ key.permute(0, 2, 3, 1).to(query.dtype)
    positive = F.softplus(scores.to(torch.promote_types(scores.dtype, torch.float32)))
    if causal:
        positive = positive.tril()
    return positive / positive.sum(-1, keepdim=True)


def visible_keys(query: Tensor, key: Tensor, *, causal: bool) -> Tensor:
    """How many keys each query sees: (N,), as numbers of float32 or better.

    Raises:
        ValueError: there are not as many keys as queries where `causal`.
    """
    queries, keys = query.shape[1], key.shape[1]
    precision = torch.promote_types(query.dtype, torch.float32)
    if not causal:
        return torch.full((queries,), keys, device=query.device, dtype=precision)
    if queries != keys:
        raise ValueError(f"number of keys = {keys} is not possible: allowed is that of the queries ({queries})")
    return torch.arange(1, queries + 1, device=query.device, dtype=precision)


def sharpened(weights: Tensor, visible: Tensor, *, power: int, offset: float = 1.0) -> Tensor:
    """relu(n A - offset)^power over its sum: keys of less than `offset` times the average weight get nothing.

    A row of which nothing would be left, such as that of a query that sees one key, stays as it is.

    Args:
        weights: A, (B, heads, N, M), of rows that sum to 1.
        visible: n, (N,), how many keys each query sees.
        power: 1 or more.
    """
    above = (weights * visible[:, None] - offset).relu()
    # The largest is made 1, and numbers far below it underflow alone. It cancels out, also in the gradient.
    largest = above.detach().amax(-1, keepdim=True)
    kept = largest > 0
    raised = (above / torch.where(kept, largest, 1)) ** power
    return torch.where(kept, raised / torch.where(kept, raised.sum(-1, keepdim=True), 1), weights)
