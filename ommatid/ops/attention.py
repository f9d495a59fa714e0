"""The attention core: softmax(q k^T * scale + bias) v."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Multi-head attention on heads that are still side by side, as a projection leaves them.

    Args:
        query: (B, N, heads, d). key: (B, M, heads, d). value: (B, M, heads, e).
        bias: added to the scaled scores, broadcastable to (B, heads, N, M).
        scale: of the scores; d ** -0.5 where None. A layer whose heads may lose channels says it.

    Returns:
        (B, N, heads * e), heads concatenated in order.
    """
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    # The fused kernel of a CPU does not take a bias of fewer axes.
    if bias is not None:
        bias = bias[(None,) * (query.dim() - bias.dim())]
    if bias is not None and bias.device.type == "cpu" and not _fused_on_cpu(bias, query, value):
        mixed = _step_by_step(query, key, value, bias, scale)
    else:
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
    return mixed.transpose(1, 2).flatten(2)


def attend_causally(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None) -> Tensor:
    """`attend` of N queries to as many keys, of which each sees those up to its own place."""
    heads = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return F.scaled_dot_product_attention(*heads, is_causal=True, scale=scale).transpose(1, 2).flatten(2)


def _fused_on_cpu(bias: Tensor, query: Tensor, value: Tensor) -> bool:
    """Whether to leave it to a CPU's fused kernel, which learns no bias and wants values as wide as queries.

    A mask of booleans is always left to it: nothing could be added.
    """
    return bias.dtype == torch.bool or (not bias.requires_grad and query.shape[-1] == value.shape[-1])


def _step_by_step(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float | None) -> Tensor:
    """Heads first: faster than PyTorch's own fallback, which looks for queries without any key."""
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    return (scores + bias).softmax(-1) @ value


def attend_weighing(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """`attend`, and how much attention every key got.

    Returns:
        (B, N, heads * e), and (B, M): the weights of each key, averaged over heads and queries, in float32 and
        without gradient.
    """
    mixed, weights = attend_weighing_pairs(query, key, value, scale=scale)
    return mixed, weights.detach().float().mean((1, 2))


def attend_weighing_pairs(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """`attend`, and its weights: (B, N, heads * e), and (B, heads, N, M)."""
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    weights = scores.softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2), weights
