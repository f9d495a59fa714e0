"""Attention to a few tokens directly and to all others through summaries of groups, in one softmax.

"Combiner: Full Attention Transformer with Sparse Computation Cost" (arXiv 2107.05768). A group's summary key takes part
in the softmax like a token's; it stands for a mean of the group's values, weighed by an attention inside the group that
is the same for all queries. Queries, keys and values are on maps, (B, heads, H, W, d), and queries are scaled; of a
sequence the rows are its segments. "Before" is row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FORBIDDEN = -1e9
"""Added to scores. Where nothing is allowed that leaves all weights equal, which published answers rely on."""

Running = Literal["sum", "max"]
Pool = Callable[[Tensor], Tensor]
"""(..., tokens, d) -> (..., d)."""


class Scores(NamedTuple):
    """Scores of every query for n keys, (B, heads, H, W, n), and what weights like them make of the keys' values."""

    scores: Tensor
    mix: Callable[[Tensor], Tensor]


def joint_attention(groups: Sequence[Scores]) -> Tensor:
    """One softmax over the keys of all groups: (B, heads, H, W, d)."""
    weights = torch.cat([group.scores for group in groups], dim=-1).softmax(-1)
    parts = weights.split([group.scores.shape[-1] for group in groups], dim=-1)
    mixed = [group.mix(part) for group, part in zip(groups, parts, strict=True)]
    return torch.stack(mixed).sum(0)


def along_rows(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Scores:
    """For keys of the query's own row: (B, heads, H or 1, n, d). `allowed` is broadcast to (H, W, n)."""
    return Scores(_restricted(query @ key.mT, allowed), lambda weights: weights @ value)


def along_columns(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Scores:
    """For keys of the query's own column: (B, heads, n, W, d). `allowed` is broadcast to (H, W, n)."""
    query, key, value = (x.transpose(2, 3) for x in (query, key, value))
    scores = (query @ key.mT).transpose(2, 3)
    return Scores(_restricted(scores, allowed), lambda weights: (weights.transpose(2, 3) @ value).transpose(2, 3))


def fixed_attention(query: Tensor, key: Tensor, value: Tensor, pool: Pool, *, causal: bool) -> Tensor:
    """The own row directly, all rows, or those before, through one summary each: (B, heads, H, W, d)."""
    keys, values = (x.unsqueeze(2) for x in group_summaries(query, key, value, pool))
    own, rows = _up_to(query.shape[3], query), _before(query.shape[2], query)
    return joint_attention(
        [
            along_rows(query, key, value, own if causal else None),
            along_rows(query, keys, values, rows if causal else None),
        ]
    )


def axial_attention(
    query: Tensor, key: Tensor, value: Tensor, row_key: Tensor, row_value: Tensor, *, causal: bool
) -> Tensor:
    """The own row directly, all rows, or those before, through what each says at the query's column.

    Args:
        row_key, row_value: (B, heads, H, W, d), what a row says at each of its columns.
    """
    own, rows = _up_to(query.shape[3], query), _before(query.shape[2], query)
    return joint_attention(
        [
            along_rows(query, key, value, own if causal else None),
            along_columns(query, row_key, row_value, rows if causal else None),
        ]
    )


def mixture_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The own row and column directly, all others through sums of what is above, below, left and right of them."""
    vertical = [x.transpose(2, 3) for x in (query, key, value)]
    horizontal = [query, key, value]
    groups = [along_rows(query, key, value), along_columns(query, key, value)]
    for backwards in (False, True):
        keys, values = (x.transpose(2, 3) for x in running_summaries(*vertical, backwards=backwards))
        groups.append(along_rows(query, keys, values))
        groups.append(along_columns(query, *running_summaries(*horizontal, backwards=backwards)))
    return joint_attention(groups)


def causal_mixture_attention(query: Tensor, key: Tensor, value: Tensor, running: Running = "sum") -> Tensor:
    """The own row and column directly, the rows before through running summaries, up the columns and along the rows."""
    height, width = query.shape[2:4]
    columns, rows = torch.arange(width, device=query.device), _before(height, query)
    above = torch.arange(height, device=query.device)[:, None, None] > 0
    upwards = (x.transpose(2, 3) for x in (query, key, value))
    up_key, up_value = (x.transpose(2, 3) for x in running_summaries(*upwards, running=running))
    left_key, left_value = running_summaries(query, key, value, running=running)
    right_key, right_value = running_summaries(query, key, value, running=running, backwards=True)
    return joint_attention(
        [
            along_columns(query, key, value, rows),
            along_rows(query, key, value, _up_to(width, query)),
            along_rows(query, up_key, up_value, above & (columns[:, None] != columns)),
            along_columns(query, left_key, left_value, rows & (columns[:, None] > 0)),
            along_columns(query, right_key, right_value, rows & (columns[:, None] < width - 1)),
        ]
    )


def logarithmic_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of sequences through summaries of 1, 2, 4, ... tokens: (B, heads, N, d).

    With its own token, these are what the binary digits of a token's position add up to: everything before it. As
    published the levels are ceil(log2(N - 1)), so the last of 2^p + 1 tokens sees itself alone.
    """
    length = query.shape[2]
    positions = torch.arange(length, device=query.device)
    keys, values, allowed = [key], [value], [torch.ones_like(positions, dtype=torch.bool)]
    for level in range(math.ceil(math.log2(length - 1)) if length > 1 else 0):
        span = 2**level
        whole = length - length % span
        queries, members, parts = (x[:, :, :whole].unflatten(2, (-1, span)) for x in (query, key, value))
        block_key, block_value = group_summaries(queries, members, parts, lambda x: x.amax(-2))
        number = positions // span
        before = (number - 1).clamp(min=0)
        keys.append(block_key[:, :, before])
        values.append(block_value[:, :, before])
        allowed.append(number % 2 == 1)
    scores = (query.unsqueeze(3) @ torch.stack(keys, dim=3).mT).squeeze(3)
    weights = _restricted(scores, torch.stack(allowed, dim=-1)).softmax(-1)
    return (weights.unsqueeze(3) @ torch.stack(values, dim=3)).squeeze(3)


def group_summaries(query: Tensor, key: Tensor, value: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """Each group's pooled key, and its values as the pooled query weighs them: (..., tokens, d) -> (..., d), twice."""
    weights = (pool(query).unsqueeze(-2) @ key.mT).softmax(-1)
    return pool(key), (weights @ value).squeeze(-2)


def running_summaries(
    query: Tensor, key: Tensor, value: Tensor, *, running: Running = "sum", backwards: bool = False
) -> tuple[Tensor, Tensor]:
    """For each token the running key of those before it, or behind it, and their values as the running query weighs.

    (..., n, d) -> (..., n, d), twice. Where there are none before, the key is 0 and the value the mean of all.
    """
    if backwards:
        flipped = running_summaries(*(x.flip(-2) for x in (query, key, value)), running=running)
        return flipped[0].flip(-2), flipped[1].flip(-2)
    past = _before(key.shape[-2], key).squeeze(1)
    scores = _restricted(_past(query, running) @ key.mT, past)
    return _past(key, running), scores.softmax(-1) @ value


def _past(x: Tensor, running: Running) -> Tensor:
    """The running sum or maximum of what is before each token; 0 for the first."""
    upto = x.cumsum(-2) if running == "sum" else x.cummax(-2).values
    return F.pad(upto[..., :-1, :], (0, 0, 1, 0))


def _restricted(scores: Tensor, allowed: Tensor | None) -> Tensor:
    return scores if allowed is None else scores + torch.where(allowed, 0.0, FORBIDDEN).to(scores.dtype)


def _up_to(count: int, like: Tensor) -> Tensor:
    """(count, count): whether the second is not behind the first."""
    return torch.ones(count, count, dtype=torch.bool, device=like.device).tril()


def _before(count: int, like: Tensor) -> Tensor:
    """(count, 1, count): whether the last is before the first."""
    return torch.ones(count, count, dtype=torch.bool, device=like.device).tril(-1).unsqueeze(1)
