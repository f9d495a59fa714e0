"""Softmax attention with a temperature: below 1 it is sharper, above 1 flatter."""

from __future__ import annotations

import torch
from torch import Tensor


def tempered_attention_weights(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float = 1.0,
    scale: float | None = None,
    bias: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """softmax((q k^T * scale + bias) / temperature), without keys that are not valid: (B, heads, N, M).

    TempScale (arXiv 2410.24200): the temperature divides all that is added up, position biases too. Where no key at all
    is valid, the answer is not a number if the temperature is below 1.

    Args:
        query: (B, N, heads, d). key: (B, M, heads, d).
        temperature: above 0.
        scale: of the products; d ** -0.5 where None.
        bias: broadcastable to (B, heads, N, M).
        valid: (B, M) booleans; every key where None.
    """
    scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    if valid is not None:
        scores = scores + torch.where(valid, 0.0, torch.finfo(torch.float32).min)[:, None, None]
    return (scores / temperature).softmax(-1)
