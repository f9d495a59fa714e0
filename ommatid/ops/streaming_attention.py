"""Attention as an accelerator streams it: one score at a time, one key for several queries at once.

Edge-MoE (arXiv 2305.18691). The streaming forms say in which order the hardware works and keep no more than it does;
the others give the same numbers at a processor's speed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ommatid.ops.attention import attend

LOWEST = -512.0
"""Where the running maximum starts: the smallest number of the accelerator."""


def softmax_statistics(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(..., n) -> the maximum M and 1 / sum exp(score - M), both (...): all that a softmax leaves to be stored.

    The weight of a score is exp(score - M) / sum, formed where it is used.
    """
    maximum = scores.amax(-1).clamp(min=LOWEST)
    return maximum, (scores - maximum.unsqueeze(-1)).exp().sum(-1).reciprocal()


def softmax_statistics_reference(scores: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`softmax_statistics` in a single pass, a score at a time: one exponential each, whatever the order.

    Args:
        start: (...,) which score of each row comes first; the others follow it, around the end.
    """
    if start is not None:
        order = (start.unsqueeze(-1) + torch.arange(scores.shape[-1], device=scores.device)) % scores.shape[-1]
        scores = scores.gather(-1, order)
    maximum, total = torch.full_like(scores[..., 0], LOWEST), torch.zeros_like(scores[..., 0])
    for score in scores.unbind(-1):
        larger = score > maximum
        change = (-(score - maximum).abs()).exp()
        total = torch.where(larger, total * change + 1, total + change)
        maximum = torch.where(larger, score, maximum)
    return maximum, total.reciprocal()


def attention_schedule(tokens: int, parallel: int) -> tuple[Tensor, Tensor]:
    """Which queries meet which key at each of T steps: (T, parallel) queries, -1 where a lane idles, and (T,) keys.

    One key is read a step and serves `parallel` queries; lane o begins its query o steps late and ends it as much later
    with the keys that it missed, so that one query is loaded a step, too. Every pair meets once.
    """
    limit = tokens + parallel - 1
    steps = limit // parallel * tokens + limit % parallel
    step, lane = torch.arange(steps), torch.arange(parallel)
    key, base = step % tokens, step // tokens * parallel
    query = base[:, None] + lane - torch.where(key[:, None] >= lane, 0, parallel)
    return torch.where((query >= 0) & (query < tokens), query, -1), key


def reordered_attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Self-attention of (N, D) queries, keys and values in `heads` heads: (N, D)."""
    split = [part.unflatten(-1, (heads, -1)).unsqueeze(0) for part in (query, key, value)]
    return attend(*split).squeeze(0)


def reordered_attention_reference(query: Tensor, key: Tensor, value: Tensor, heads: int, parallel: int) -> Tensor:
    """`reordered_attention`, step by step of its schedule, without ever holding more scores than one step makes."""
    query, key, value = (part.unflatten(-1, (heads, -1)) for part in (query, key, value))
    scale, (queries, keys) = query.shape[-1] ** -0.5, attention_schedule(len(query), parallel)
    maximum, total = query.new_full(query.shape[:2], LOWEST), query.new_zeros(query.shape[:2])
    mixed = torch.zeros_like(value)
    for lanes, k in zip(queries, keys, strict=True):
        at = lanes[lanes >= 0]
        score = (query[at] * key[k]).sum(-1) * scale
        larger, change = score > maximum[at], (-(score - maximum[at]).abs()).exp()
        total[at] = torch.where(larger, total[at] * change + 1, total[at] + change)
        maximum[at] = score.maximum(maximum[at])
    for lanes, k in zip(queries, keys, strict=True):
        at = lanes[lanes >= 0]
        score = (query[at] * key[k]).sum(-1) * scale
        mixed[at] += ((score - maximum[at]).exp() / total[at]).unsqueeze(-1) * value[k]
    return mixed.flatten(1)
