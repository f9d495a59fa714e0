"""Retention: causal linear attention in which every head forgets at its own constant rate, in three equal forms.

Source: "Retentive Network: A Successor to Transformer for Large Language Models" (arXiv 2307.08621), without its
normalisation and rotation; the same recurrence is the core of Lightning Attention-2 (arXiv 2401.04658).

    S_t = gamma S_(t-1) + k_t^T v_t,    o_t = q_t S_t = sum over s <= t of gamma^(t - s) (q_t . k_s) v_s

The parallel form takes one product of size L x L, the recurrent one L steps, the chunkwise one products of
chunk x chunk and L / chunk steps. Queries come scaled. All compute in float32 at least, also under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ommatid.ops.recurrence import linear_recurrence


def retention_parallel(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> Tensor:
    """Retention as attention with a decaying causal mask.

    Args:
        query, key: (B, L, heads, d).
        value: (B, L, heads, e).
        log_decay: (heads,), log gamma, at most 0.

    Returns:
        (B, L, heads, e), in the type of the values.
    """
    with torch.autocast(query.device.type, enabled=False):
        queries, keys, values = (x.transpose(1, 2).to(_precision(x)) for x in (query, key, value))
        return _attend(queries, keys, values, log_decay).transpose(1, 2).to(value.dtype)


def retention_recurrent(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Retention token by token.

    Args:
        query, key, value, log_decay: as in `retention_parallel`.
        state: what earlier tokens left, (B, heads, d, e); zeros where None.

    Returns:
        (B, L, heads, e), and the state after the last token.
    """
    with torch.autocast(query.device.type, enabled=False):
        queries, keys, values = (x.to(_precision(x)).unbind(1) for x in (query, key, value))
        decay = log_decay.exp()[:, None, None]
        entering = [k.unsqueeze(-1) * v.unsqueeze(-2) for k, v in zip(keys, values, strict=True)]
        first = _zero_state(query, value) if state is None else state
        states = linear_recurrence([decay] * len(entering), entering, first)
        outputs = [(q.unsqueeze(-2) @ after).squeeze(-2) for q, after in zip(queries, states[1:], strict=True)]
        return torch.stack(outputs, dim=1).to(value.dtype), states[-1]


def retention_chunkwise(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    *,
    state: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Retention in parallel inside all chunks and recurrent from chunk to chunk.

    Args:
        query, key, value, log_decay, state: as in `retention_recurrent`.
        chunk_size: tokens of a chunk; the last chunk may be shorter. The result does not depend on it.

    Returns:
        (B, L, heads, e), and the state after the last token, (B, heads, d, e).
    """
    length, chunk = query.shape[1], min(chunk_size, query.shape[1])
    whole = length - length % chunk
    if whole < length:
        (q, q_rest), (k, k_rest), (v, v_rest) = (x.split([whole, length - whole], dim=1) for x in (query, key, value))
        before, state = retention_chunkwise(q, k, v, log_decay, state=state, chunk_size=chunk)
        after, state = retention_chunkwise(q_rest, k_rest, v_rest, log_decay, state=state, chunk_size=chunk)
        return torch.cat([before, after], dim=1), state

    with torch.autocast(query.device.type, enabled=False):
        queries, keys, values = (
            x.to(_precision(x)).unflatten(1, (-1, chunk)).transpose(2, 3) for x in (query, key, value)
        )  # (B, chunks, heads, chunk, d)
        rate = log_decay[:, None, None]
        age = torch.arange(chunk, device=query.device)[:, None]
        entering = (keys * (rate * (chunk - 1 - age)).exp()).mT @ values
        first = _zero_state(query, value) if state is None else state
        states = linear_recurrence([(rate * chunk).exp()] * entering.shape[1], entering.unbind(1), first)
        across = (queries * (rate * (age + 1)).exp()) @ torch.stack(states[:-1], dim=1)
        outputs = _attend(queries, keys, values, log_decay) + across
        return outputs.transpose(2, 3).flatten(1, 2).to(value.dtype), states[-1]


def _attend(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> Tensor:
    """(..., heads, L, d), (..., heads, L, d), (..., heads, L, e) -> (..., heads, L, e)."""
    steps = torch.arange(query.shape[-2], device=query.device)
    age = steps[:, None] - steps
    mask = (log_decay[:, None, None] * age.clamp(min=0)).exp().tril()
    return (query @ key.mT * mask) @ value


def _zero_state(query: Tensor, value: Tensor) -> Tensor:
    batch, _, heads, width = query.shape
    return query.new_zeros(batch, heads, width, value.shape[-1], dtype=_precision(query))


def _precision(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
