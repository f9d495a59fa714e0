"""Attention of long sequences in groups of neighbouring tokens, some heads cutting between where the others do.

LongLoRA (arXiv 2309.12307) shifts half of the heads around the ends; SinkLoRA (arXiv 2406.05678) shifts fewer, not
around the ends, and lets all groups see the first tokens. Both stand in for full attention while a model is trained.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.ops.attention import attend, attend_causally


def shifted_sparse_attention(query: Tensor, key: Tensor, value: Tensor, *, group: int, causal: bool = True) -> Tensor:
    """Attention in groups, which the second half of the heads cut half a group later, and around the ends.

    The last group of those heads holds the last tokens and then the first; where `causal`, these see those. So it was
    published. Cost: 2 N group d multiply-adds a head.

    Args:
        query, key, value: (B, N, heads, d).
        group: tokens in a group; even, and a divisor of N.
        causal: tokens see only those before them in their group.

    Returns:
        (B, N, heads * d), heads concatenated in order.
    """
    parts = (shifted_groups(part, group) for part in (query, key, value))
    mixed = (attend_causally if causal else attend)(*parts)
    heads = mixed.view(*query.shape[:3], -1)
    return _later_half_rolled(heads, group // 2).flatten(2)


def shifted_groups(x: Tensor, group: int) -> Tensor:
    """(B, N, heads, d) -> (B * N / group, group, heads, d): the groups of `shifted_sparse_attention`.

    Raises:
        ValueError: the size of a group is odd, or no divisor of N.
    """
    tokens = x.shape[1]
    if group < 2 or group % 2 or tokens % group:
        raise ValueError(f"group_size = {group} is not possible: allowed is an even divisor of {tokens} tokens")
    return _later_half_rolled(x, -(group // 2)).reshape(-1, group, *x.shape[2:])


def _later_half_rolled(x: Tensor, places: int) -> Tensor:
    """(B, N, heads, d), the second half of the heads moved along the tokens, and around the ends."""
    heads = x.shape[2] // 2
    return torch.cat([x[:, :, :heads], x[:, :, heads:].roll(places, 1)], dim=2)


def sink_fixed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    group: int,
    shifted_heads: int = 0,
    sinks: int = 0,
    causal: bool = True,
) -> Tensor:
    """Attention in groups, to which the first tokens belong all; `sink_fixed_mask` says who sees whom.

    Cost: 2 N (group + sinks) d multiply-adds a head.

    Args:
        query, key, value: (B, N, heads, d).
        group: tokens in a group.
        shifted_heads: so many of the last heads have a first group of half the size.
        sinks: so many of the first tokens are seen by all, and see all.
        causal: nobody sees a later token.

    Returns:
        (B, N, heads * d), heads concatenated in order.
    """
    heads = [query.shape[2] - shifted_heads, shifted_heads]
    plain, shifted = zip(*(part.split(heads, dim=2) for part in (query, key, value)), strict=True)
    settings = [(plain, 0), (shifted, group // 2)]
    return torch.cat(
        [
            _with_sinks(*parts, group=group, first=first, sinks=sinks, causal=causal)
            for parts, first in settings
            if parts[0].shape[2]
        ],
        dim=-1,
    )


def _with_sinks(
    query: Tensor, key: Tensor, value: Tensor, *, group: int, first: int, sinks: int, causal: bool
) -> Tensor:
    """Heads whose first group has `first` tokens, or as many as the others if 0."""
    batch, tokens = query.shape[:2]
    sinks = min(sinks, tokens)
    before = group - first if first else 0
    behind = -(before + tokens) % group
    place = torch.arange(-before, tokens + behind, device=query.device).unflatten(0, (-1, group))

    def grouped(x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, before, behind)).unflatten(1, (-1, group))

    def with_sinks(x: Tensor) -> Tensor:
        shared = x[:, None, :sinks].expand(-1, len(place), -1, -1, -1)
        return torch.cat([shared, grouped(x)], dim=2).flatten(0, 1)

    seen = _seen_in_groups(place, tokens, sinks, causal).repeat(batch, 1, 1).unsqueeze(1)
    mixed = attend(grouped(query).flatten(0, 1), with_sinks(key), with_sinks(value), bias=seen)
    mixed = mixed.view(batch, -1, mixed.shape[-1])[:, before : before + tokens]
    if causal or not sinks:
        return mixed
    return torch.cat([attend(query[:, :sinks], key, value), mixed[:, sinks:]], dim=1)


def _seen_in_groups(place: Tensor, tokens: int, sinks: int, causal: bool) -> Tensor:
    """Which of the sinks and then of its own group each token sees: (G, group) places -> (G, group, sinks + group)."""
    real = (place >= 0) & (place < tokens)
    # Sinks stand in front of every group, so they are not seen a second time in their own.
    keys = torch.cat([torch.arange(sinks, device=place.device).expand(len(place), -1), place], dim=1)
    there = torch.cat([torch.ones_like(keys[:, :sinks], dtype=torch.bool), real & (place >= sinks)], dim=1)
    seen = there[:, None].expand(-1, place.shape[1], -1)
    if causal:
        seen = seen & (keys[:, None] <= place[:, :, None])
    # Nobody reads the answers of places that are no tokens; seeing nothing at all would make them no numbers.
    return seen | ~real[:, :, None]


def sink_fixed_mask(
    tokens: int,
    heads: int,
    *,
    group: int,
    shifted_heads: int = 0,
    sinks: int = 0,
    causal: bool = True,
    device: torch.device | None = None,
) -> Tensor:
    """Which tokens see which in `sink_fixed_attention`: (heads, N, N) booleans."""
    place = torch.arange(tokens, device=device)
    of_plain, of_shifted = place // group, torch.div(place - group // 2, group, rounding_mode="floor")
    index = torch.stack([of_plain] * (heads - shifted_heads) + [of_shifted] * shifted_heads)
    sink = place < sinks
    seen = (index[:, :, None] == index[:, None]) | sink | sink[:, None]
    return seen.tril() if causal else seen
