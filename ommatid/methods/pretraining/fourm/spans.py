"""Spans of a sequence that are hidden behind sentinels, and the sequence that says what they were.

"Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (arXiv 1910.10683), as 4M has it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = -1
SHRINK = 0.9
"""Of the probability to keep a token, while what is kept is more than may be shown."""


class Spans(NamedTuple):
    """What is shown, and what is asked for: (B, 2 (N + 1)) token numbers each, with -1 behind the last one."""

    shown: Tensor
    asked: Tensor


def mask_spans(ids: Tensor, keep: Tensor, sentinel: int) -> Spans:
    """Hides every span of tokens that are not kept behind one sentinel.

    Args:
        ids: (B, N).
        keep: (B, N) booleans.
        sentinel: number of the first sentinel, for the first span; the others follow.
    """
    starts = ~keep & torch.cat([torch.ones_like(keep[:, :1]), keep[:, :-1]], dim=1)
    sentinels = sentinel - 1 + starts.cumsum(1)
    length = 2 * (ids.shape[1] + 1)
    shown = packed(torch.where(keep, ids, sentinels), keep | starts, length)
    values = torch.stack([sentinels, ids], dim=-1).flatten(1)
    used = torch.stack([starts, ~keep], dim=-1).flatten(1)
    values = torch.cat([values, sentinel + starts.sum(1, keepdim=True)], dim=1)
    return Spans(shown, packed(values, torch.cat([used, torch.ones_like(keep[:, :1])], dim=1), length))


def packed(values: Tensor, used: Tensor, length: int) -> Tensor:
    """(B, N) -> (B, length): the used ones of each row from its start, in order, and -1 behind them."""
    filled = values.masked_fill(~used, PADDING).gather(1, (~used).int().argsort(dim=1, stable=True))
    return F.pad(filled, (0, length - values.shape[1]), value=PADDING)


def draw_spans(
    ids: Tensor,
    shown: int,
    asked: int,
    sentinel: int,
    *,
    mode: Literal["random", "all", "binary"] = "random",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """What is shown and what is asked for of one sequence (N,), of at most so many tokens: (n,), (m,).

    The probability to keep a token is drawn, and lowered until what is kept fits. Of a target that is too long, a part
    is taken that begins with one of its sentinels.

    Args:
        ids: (N,).
        shown, asked: the most tokens. Nothing is kept where `shown` is 0.
        sentinel: as in `mask_spans`.
        mode: any probability; 1; or 0 or 1.
        generator: of the random numbers.
    """
    chance = torch.rand((), generator=generator)
    probability = {"random": chance, "all": torch.ones(()), "binary": chance.round()}[mode]
    while True:
        keep = (torch.rand(len(ids), generator=generator) <= probability) & (shown > 0)
        source, target = (row[0][row[0] != PADDING] for row in mask_spans(ids[None], keep[None], sentinel))
        if shown == 0 or len(source) <= shown:
            return source[:shown], cut(target, asked, sentinel, generator)
        probability = probability * SHRINK


def cut(target: Tensor, length: int, sentinel: int, generator: torch.Generator | None = None) -> Tensor:
    """A target (m,), of one that is too long a part (length,) or shorter from a random sentinel on, not the last."""
    if len(target) <= length:
        return target
    sentinels = ((target >= sentinel) & (target <= target[-1])).nonzero()[:-1, 0]
    start = int(sentinels[torch.randint(len(sentinels), (), generator=generator)])
    return target[start : start + length]
