"""Attention without a softmax, at a cost linear in tokens: keys meet values before queries see either."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.ops.precision import precise
from ommatid.ops.retention import retention_chunkwise


def linear_attention(query: Tensor, key: Tensor, value: Tensor, *, eps: float = 1e-6) -> Tensor:
    """sum_j (q_i . k_j) v_j / (q_i . sum_j k_j + eps), for queries and keys that are not negative.

    "Transformers are RNNs" (arXiv 2006.16236). Computed in float32 (float64 for float64 inputs), also under autocast.
    Cost: 2 N d min(N, d) multiply-adds for each head.

    Args:
        query, key, value: (B, N, heads, d).
        eps: keeps the division finite.

    Returns:
        (B, N, heads * d), heads concatenated in order.
    """
    dtype, precision = value.dtype, torch.promote_types(value.dtype, torch.float32)
    with torch.autocast(value.device.type, enabled=False):
        query, key, value = (part.to(precision) for part in (query, key, value))
        normalizer = torch.einsum("bnhd,bhd->bnh", query, key.sum(1)) + eps
        if query.shape[1] > query.shape[3]:
            mixed = torch.einsum("bnhc,bhcd->bnhd", query, torch.einsum("bnhc,bnhd->bhcd", key, value))
        else:
            mixed = torch.einsum("bhnm,bmhd->bnhd", torch.einsum("bnhd,bmhd->bhnm", query, key), value)
        return (mixed / normalizer.unsqueeze(-1)).flatten(2).to(dtype)


def linear_attention_reference(query: Tensor, key: Tensor, value: Tensor, *, eps: float = 1e-6) -> Tensor:
    """`linear_attention` by its definition, with all N x N weights."""
    scores = torch.einsum("bnhd,bmhd->bhnm", query, key)
    weights = scores / (scores.sum(-1, keepdim=True) + eps)
    return torch.einsum("bhnm,bmhd->bnhd", weights, value).flatten(2)


def causal_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    state: Tensor | None = None,
    chunk_size: int = 64,
    eps: float = 1e-12,
) -> tuple[Tensor, Tensor]:
    """sum over j <= i of (q_i . k_j) v_j / (q_i . sum over j <= i of k_j + eps), for q . k that are not negative.

    Retention that forgets nothing, of values with a 1 for the divisor beside them. Computed in float32 (float64 for
    float64 inputs), also under autocast. Cost: N d (2 e + chunk) multiply-adds for each head.

    Args:
        query, key: (B, N, heads, d). value: (B, N, heads, e).
        state: what earlier tokens left, (B, heads, d, e + 1): sums of k v^T and, in the last column, of k.
        chunk_size: tokens of a chunk. The result does not depend on it.
        eps: keeps the division finite.

    Returns:
        (B, N, heads, e), and the state after the last token.
    """
    sums, state = retention_chunkwise(
        query,
        key,
        F.pad(precise(value), (0, 1), value=1.0),
        query.new_zeros(query.shape[2]),
        state=state,
        chunk_size=chunk_size,
    )
    return (sums[..., :-1] / (sums[..., -1:] + eps)).to(value.dtype), state


def injective_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None) -> Tensor:
    """sum_j (s q_i . (k_j - mean k) + 1) / N v_j with a scale s: weights sum to 1, and may be negative.

    The attention of InLine (arXiv 2412.06590): a query reads the covariance of keys and values, and no two queries read
    the same. Cost: 2 N d^2 multiply-adds for each head.

    Args:
        query, key, value: (B, N, heads, d).
        scale: s; d ** -0.5 where None.

    Returns:
        (B, N, heads * d), heads concatenated in order.
    """
    scale = (query.shape[-1] ** -0.5 if scale is None else scale) / query.shape[1]
    covariance = torch.einsum("bnhc,bnhd->bhcd", (key - key.mean(1, keepdim=True)) * scale, value)
    return (torch.einsum("bnhc,bhcd->bnhd", query, covariance) + value.mean(1, keepdim=True)).flatten(2)


def injective_attention_reference(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None) -> Tensor:
    """`injective_attention` by its definition, with all N x N weights."""
    scores = torch.einsum("bnhd,bmhd->bhnm", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    weights = (scores - scores.mean(-1, keepdim=True) + 1) / query.shape[1]
    return torch.einsum("bhnm,bmhd->bnhd", weights, value).flatten(2)
