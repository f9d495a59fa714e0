"""Merging similar tokens: who goes into whom, and what becomes of the values.

Every matching gives one tensor, `place` (B, N): the row of the shorter sequence that each token goes to. Merging adds
rows up by it, and unmerging reads them back. Nothing here has a gradient but the values that are merged.

"Token Merging: Your ViT But Faster" (arXiv 2210.09461).
"""

from __future__ import annotations

import torch
from torch import Tensor


def merge_sum(x: Tensor, place: Tensor, length: int) -> Tensor:
    """(B, N, C) -> (B, length, C): the sum of the tokens that go to each place."""
    batch, _, dim = x.shape
    rows = (place + length * torch.arange(batch, device=x.device)[:, None]).flatten()
    merged = x.new_zeros(batch * length, dim).index_add(0, rows, x.flatten(0, 1))
    return merged.unflatten(0, (batch, length))


def merge_mean(x: Tensor, place: Tensor, length: int) -> Tensor:
    """(B, N, C) -> (B, length, C): the plain mean of the tokens that go to each place, 0 where none do."""
    ones = x.new_ones(*place.shape, 1)
    return merge_sum(x, place, length) / merge_sum(ones, place, length).clamp(min=1)


def merge_weighted(x: Tensor, size: Tensor, place: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Means weighted by how many patches each token stands for.

    Args:
        x: (B, N, C). size: (B, N, 1). place, length: of a matching.

    Returns:
        The tokens (B, length, C) and their sizes (B, length, 1).
    """
    total = merge_sum(size, place, length)
    return merge_sum(x * size, place, length) / total, total


def unmerge(merged: Tensor, place: Tensor) -> Tensor:
    """(B, length, C) -> (B, N, C): every token as a copy of the one it went into."""
    return merged.gather(1, place[..., None].expand(-1, -1, merged.shape[-1]))


def sources(place: Tensor, length: int) -> Tensor:
    """(B, N) -> (B, length, N): 1 where the token (column) is part of the merged one (row), 0 elsewhere."""
    return (place[:, None] == torch.arange(length, device=place.device)[:, None]).float()


def match_bipartite(
    metric: Tensor, r: int, *, class_token: bool = False, distillation_token: bool = False
) -> tuple[Tensor, int]:
    """Bipartite soft matching: r of the tokens at even positions go into the most similar ones at odd positions.

    The class token, first, and the distillation token behind it neither go anywhere nor take anything in.

    Args:
        metric: (B, N, D), compared by the cosine.
        r: tokens to merge away; at most half of those that may.

    Returns:
        place (B, N) and the new length. The order is: what stays of the even tokens, then the odd ones. The even ones
        come in their own order with a class token, and by falling similarity without.
    """
    tokens = metric.shape[1]
    r = min(r, (tokens - class_token - distillation_token) // 2)
    if r <= 0:
        return torch.arange(tokens, device=metric.device).expand(metric.shape[:2]), tokens
    scores = _cosines(metric, slice(0, None, 2), slice(1, None, 2))
    if class_token:
        scores[:, 0] = -torch.inf
    if distillation_token:
        scores[..., 0] = -torch.inf
    best, partner = scores.max(-1)
    order = best.argsort(-1, descending=True)
    rank = order.argsort(-1)
    leaves, staying = rank < r, scores.shape[1] - r
    position = (~leaves).cumsum(-1) - 1 if class_token else rank - r
    place = torch.empty(metric.shape[:2], dtype=torch.long, device=metric.device)
    place[:, ::2] = torch.where(leaves, staying + partner, position)
    place[:, 1::2] = staying + torch.arange(tokens // 2, device=metric.device)
    return place, tokens - r


def special_tokens_first(place: Tensor, length: int) -> Tensor:
    """The same matching with class and distillation token as the first two: (B, N) -> (B, N).

    `place` is of a sequence that begins with them; the distillation token is the first of the odd ones.
    """
    odd = length - place.shape[1] // 2
    moved = torch.cat([torch.arange(1), torch.arange(2, odd + 1), torch.ones(1), torch.arange(odd + 1, length)])
    return moved.long().to(place.device)[place]


def match_groups(metric: Tensor, k: int) -> tuple[Tensor, int]:
    """Of every k tokens in a row the last stays, and the others go into whichever of those is most similar.

    Args:
        metric: (B, N, D), compared by the cosine.
        k: 1 or less leaves all as they are.

    Returns:
        place (B, N') and the new length N // k. Of N only the first N' = k (N // k) tokens are kept at all.
    """
    if k <= 1:
        return torch.arange(metric.shape[1], device=metric.device).expand(metric.shape[:2]), metric.shape[1]
    groups = metric.shape[1] // k
    by_group = metric[:, : groups * k].unflatten(1, (groups, k))
    pairs = torch.cat([by_group[:, :, :-1].flatten(1, 2), by_group[:, :, -1]], dim=1)
    scores = _cosines(pairs, slice(0, groups * (k - 1)), slice(groups * (k - 1), None))
    partner = scores.argmax(-1).unflatten(1, (groups, k - 1))
    last = torch.arange(groups, device=metric.device)[:, None].expand(metric.shape[0], -1, 1)
    return torch.cat([partner, last], dim=-1).flatten(1), groups


def match_random(metric: Tensor, r: int, noise: Tensor) -> tuple[Tensor, int]:
    """The r tokens of the least noise go into the most similar of the others, which come in the order of theirs.

    Args:
        metric: (B, N, D), compared by the cosine.
        r: tokens to merge away, fewer than N.
        noise: (B, N).
    """
    tokens = metric.shape[1]
    if r <= 0:
        return torch.arange(tokens, device=metric.device).expand(metric.shape[:2]), tokens
    order = noise.argsort(-1)
    drawn = metric.gather(1, order[..., None].expand(metric.shape))
    partner = _cosines(drawn, slice(0, r), slice(r, None)).argmax(-1)
    staying = torch.arange(tokens - r, device=metric.device).expand(metric.shape[0], -1)
    place = torch.empty_like(order).scatter_(1, order, torch.cat([partner, staying], dim=1))
    return place, tokens - r


def _cosines(metric: Tensor, left: slice, right: slice) -> Tensor:
    """Between two parts of a sequence (B, N, D), in float32: (B, n, m)."""
    with torch.autocast(metric.device.type, enabled=False):
        unit = metric.detach().float()
        unit = unit / unit.norm(dim=-1, keepdim=True)
        return unit[:, left] @ unit[:, right].mT
