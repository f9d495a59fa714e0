"""Bi-level routing attention: regions choose regions, then the tokens of a region attend to those of its choice.

Source: "BiFormer: Vision Transformer with Bi-Level Routing Attention" (arXiv 2303.08810).

The fast version gathers the chosen regions' keys and values next to each other, once per region and not per token, so
that every region is one small dense attention. Where a region reads a large share of the map anyway, one dense
attention of the whole map under a mask costs less than the copies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ommatid.ops.attention import attend

# Share of the regions from which on masking is faster than gathering, forward and backward; measured on a CPU.
DENSE_SHARE = 1 / 4


def bi_level_routing_attention(
    query: Tensor, key: Tensor, value: Tensor, *, topk: int, scale: float | None = None
) -> Tensor:
    """Attention of the tokens of each region to the tokens of the `topk` regions most like it.

    Args:
        query, key: (B, R, n, heads, d): R regions of n tokens each.
        value: (B, R, n, heads, e).
        topk: number of regions that a region reads, from 1 to R.
        scale: of the scores; d ** -0.5 where None.

    Returns:
        (B, R, n, heads * e).

    Raises:
        ValueError: topk is not from 1 to R.
    """
    routes = route(query, key, topk)
    attend_routes = _attend_masked if topk >= DENSE_SHARE * query.shape[1] else _attend_gathered
    return attend_routes(query, key, value, routes, scale)


def bi_level_routing_attention_reference(
    query: Tensor, key: Tensor, value: Tensor, *, topk: int, scale: float | None = None
) -> Tensor:
    """`bi_level_routing_attention`, with the scores of all tokens for all tokens."""
    readable = _readable(route(query, key, topk), query)
    tokens = [features.flatten(1, 2).transpose(1, 2) for features in (query, key, value)]
    scores = tokens[0] @ tokens[1].mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    weights = scores.masked_fill(~readable, float("-inf")).softmax(-1)
    return (weights @ tokens[2]).transpose(1, 2).flatten(2).view(*query.shape[:3], -1)


@torch.no_grad()
def route(query: Tensor, key: Tensor, topk: int) -> Tensor:
    """(B, R, topk) integers: the regions whose mean keys fit the mean queries of each region best, over all heads.

    The choice has no gradient. Arguments and errors as in `bi_level_routing_attention`.
    """
    regions, wide = query.shape[1], torch.promote_types(query.dtype, torch.float32)
    if not 1 <= topk <= regions:
        raise ValueError(f"topk = {topk} is not possible: allowed is from 1 to the number of regions, {regions}")
    mean_query, mean_key = (features.flatten(3).mean(2, dtype=wide) for features in (query, key))
    with torch.autocast(query.device.type, enabled=False):
        affinity = (mean_query * mean_query.shape[-1] ** -0.5) @ mean_key.mT
    return affinity.topk(topk, dim=-1).indices


def _attend_gathered(query: Tensor, key: Tensor, value: Tensor, routes: Tensor, scale: float | None) -> Tensor:
    batch, regions, tokens = query.shape[:3]
    chosen = routes + regions * torch.arange(batch, device=routes.device)[:, None, None]

    def gather(features: Tensor) -> Tensor:
        rows = features.flatten(0, 1).index_select(0, chosen.flatten())
        return rows.view(batch * regions, routes.shape[2] * tokens, *features.shape[3:])

    return attend(query.flatten(0, 1), gather(key), gather(value), scale=scale).unflatten(0, (batch, regions))


def _attend_masked(query: Tensor, key: Tensor, value: Tensor, routes: Tensor, scale: float | None) -> Tensor:
    mask = _readable(routes, query) if routes.shape[2] < query.shape[1] else None
    mixed = attend(query.flatten(1, 2), key.flatten(1, 2), value.flatten(1, 2), bias=mask, scale=scale)
    return mixed.view(*query.shape[:3], -1)


def _readable(routes: Tensor, query: Tensor) -> Tensor:
    """(B, 1, R n, R n): whether a token may read another."""
    regions, tokens = query.shape[1:3]
    readable = torch.zeros(query.shape[0], regions, regions, dtype=torch.bool, device=query.device)
    readable = readable.scatter(2, routes, True)
    return readable.repeat_interleave(tokens, 1).repeat_interleave(tokens, 2).unsqueeze(1)
