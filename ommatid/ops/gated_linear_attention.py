"""Gated linear attention: causal linear attention whose state forgets at a rate of each token's and channel's own.

Source: "Gated Linear Attention Transformers with Hardware-Efficient Training" (arXiv 2312.06635).

    S_t = diag(exp(g_t)) S_(t-1) + k_t v_t^T,    o_t = S_t^T q_t
    o_t = sum over s <= t of (q_t exp(G_t - G_s) . k_s) v_s,    G the running sum of g

The fast version works in chunks. From chunk to chunk it carries the state. Inside a chunk every pair of tokens is
split by the middle of exactly one of its intervals of 2, 4, 8, ... tokens, and exp(G_t - G_s) into a factor for each
side of that middle. So all is matrix products, and no factor exceeds 1 however fast the decay: nothing overflows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.ops.recurrence import linear_recurrence


def gated_linear_attention(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, *, chunk_size: int = 16
) -> Tensor:
    """Gated linear attention from chunks; in float32 (float64 for float64 inputs), also under autocast.

    Cost: about (chunk / 2 + 2 e) d L multiply-adds a head, and 10 d L exponentials.

    Args:
        query, key: (B, L, heads, d); queries come scaled.
        value: (B, L, heads, e).
        log_decay: (B, L, heads, d), g, at most 0.
        chunk_size: a power of 2; the result does not depend on it.

    Returns:
        (B, L, heads, e), in the type of the values.

    Raises:
        ValueError: shapes that do not fit together, or a chunk size that is no power of 2.
    """
    _check(query, key, value, log_decay)
    if chunk_size < 1 or chunk_size & (chunk_size - 1):
        raise ValueError(f"chunk_size must be a power of 2, got {chunk_size}")
    with torch.autocast(query.device.type, enabled=False):
        mixed = _mix(*(_chunks(x, chunk_size) for x in (query, key, value, log_decay)))
    return mixed.transpose(2, 3).flatten(1, 2)[:, : value.shape[1]].to(value.dtype)


def gated_linear_attention_reference(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> Tensor:
    """`gated_linear_attention`, token by token."""
    _check(query, key, value, log_decay)
    entering = key.unsqueeze(-1) * value.unsqueeze(-2)
    decay = log_decay.exp().unsqueeze(-1)
    states = linear_recurrence(decay.unbind(1), entering.unbind(1), torch.zeros_like(entering[:, 0]))
    return (query.unsqueeze(-2) @ torch.stack(states[1:], dim=1)).squeeze(-2)


def _chunks(x: Tensor, size: int) -> Tensor:
    """(B, L, heads, d) -> (B, chunks, heads, size, d), in float32 at least. Zeros at the end change nothing."""
    padded = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size))
    return padded.unflatten(1, (-1, size)).transpose(2, 3).to(torch.promote_types(x.dtype, torch.float32))


def _mix(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> Tensor:
    """Gated linear attention on chunks: (B, chunks, heads, chunk, d) and so on -> (B, chunks, heads, chunk, e)."""
    mixed = (query * key).sum(-1, keepdim=True) * value
    # Log decays summed inside blocks of one token, then two, four, ...: from the block's start to each token, and
    # from each token on to the block's end. Sums only ever grow, so nothing is lost to subtraction.
    since_start, to_end = log_decay, torch.zeros_like(log_decay)
    block = 1
    while block < query.shape[-2]:
        (since_left, since_right), (to_end_left, to_end_right) = (_pairs(x, block) for x in (since_start, to_end))
        (left_key, _), (left_value, _), (_, right_query) = (_pairs(x, block) for x in (key, value, query))
        reach = (right_query * since_right.exp()) @ (left_key * to_end_left.exp()).mT
        mixed = mixed + _joined(torch.zeros_like(left_value), reach @ left_value)
        since_start = _joined(since_left, since_right + since_left[..., -1:, :])
        to_end = _joined(to_end_left + since_right[..., -1:, :], to_end_right)
        block *= 2

    entering = (key * to_end.exp()).mT @ value
    decay = since_start[..., -1:, :].exp().mT
    first = torch.zeros_like(entering[:, 0])
    states = linear_recurrence(decay.unbind(1)[:-1], entering.unbind(1)[:-1], first)
    return mixed + (query * since_start.exp()) @ torch.stack(states, dim=1)


def _pairs(x: Tensor, block: int) -> tuple[Tensor, ...]:
    """Left and right blocks of a chunk: (..., chunk, d) -> two of (..., chunk / 2 block, block, d)."""
    return x.unflatten(-2, (-1, 2, block)).unbind(-3)


def _joined(left: Tensor, right: Tensor) -> Tensor:
    """Undoes `_pairs`."""
    return torch.stack([left, right], dim=-3).flatten(-4, -2)


def _check(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> None:
    if query.dim() != 4 or not query.shape == key.shape == log_decay.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, log_decay))
        raise ValueError(f"query, key and log_decay must share one shape (batch, length, heads, d), got {shapes}")
    if value.shape[:3] != query.shape[:3]:
        wanted = (*query.shape[:3], "e")
        raise ValueError(f"value must have the shape {wanted}, got {tuple(value.shape)}")
