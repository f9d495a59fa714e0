"""Attention of sequences that is cut into parts: into clusters by content, or into windows by position.

As in "Efficient Content-Based Sparse Attention with Routing Transformers" (arXiv 2003.05997).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.ops.sequence_blocks import block_positions, with_neighbors

LAST_RESORT = -50000.0
"""The score of a token with itself where it is to attend to itself only if nothing else is left."""


def clustered_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_members: Tensor,
    key_members: Tensor,
    *,
    memory: tuple[Tensor, Tensor] | None = None,
    causal: bool = False,
    avoid_self: bool = False,
    valid: Tensor | None = None,
) -> Tensor:
    """Full attention inside each cluster; a token gets the mean of its clusters, or zeros where it has none.

    A query for which nothing is allowed reads all of its cluster alike. Cost: 2 K n^2 d multiply-adds a head.

    Args:
        query, key, value: (B, heads, N, d).
        query_members, key_members: (B, heads, K, n), the numbers of each cluster's tokens.
        memory: keys and values (heads, K, m, d) that are in the clusters always.
        causal: no token reads later ones.
        avoid_self: a token reads itself only where nothing else is allowed.
        valid: (B, N) booleans; others neither read nor are read.

    Returns:
        (B, heads, N, d). The mean's divisor is, as published, 1e-5 more than the number of clusters.
    """
    places = _for_each_channel(query_members, query)
    queries, keys, values = (
        _members(x, members) for x, members in ((query, query_members), (key, key_members), (value, key_members))
    )
    bias = _cluster_bias(query_members, key_members, causal=causal, avoid_self=avoid_self, valid=valid, like=queries)
    if memory is not None:
        keys, values = (
            torch.cat([slots.to(x.dtype).expand(x.shape[0], -1, -1, -1, -1), x], dim=3)
            for slots, x in zip(memory, (keys, values), strict=True)
        )
        bias = None if bias is None else F.pad(bias, (memory[0].shape[2], 0))
    queries, keys, values = (x.flatten(1, 2) for x in (queries, keys, values))
    bias = None if bias is None else bias.flatten(1, 2)
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    mixed = mixed.unflatten(1, query_members.shape[1:3]).flatten(2, 3)
    sums = torch.zeros_like(query).scatter_add(2, places, mixed.to(query.dtype))
    counts = torch.zeros_like(query).scatter_add(2, places, torch.ones_like(mixed, dtype=query.dtype))
    return sums / (counts + 1e-5)


def local_attention(
    query: Tensor, key: Tensor, value: Tensor, size: int, *, causal: bool = False, valid: Tensor | None = None
) -> Tensor:
    """Attention to the tokens of the own window, the one before it and, unless causal, the one behind it.

    A query for which nothing is allowed reads all of these alike, and for windows that are not there tokens of -1.
    Cost: 6 N size d multiply-adds a head, 4 N size d if causal.

    Args:
        query, key, value: (B, heads, N, d), N a multiple of the window's size.
        valid: (B, N) booleans; others neither read nor are read.
    """
    around = {"before": 1, "after": 0 if causal else 1}
    queries, keys, values = (x.unflatten(2, (-1, size)) for x in (query, key, value))
    keys, values = (with_neighbors(x, **around, fill=-1.0) for x in (keys, values))
    blocks = queries.shape[2]
    own = torch.arange(query.shape[2], device=query.device).view(blocks, size, 1)
    seen = block_positions(blocks, size, **around, device=query.device).unsqueeze(1)
    allowed = seen >= 0
    if causal:
        allowed = allowed & (seen <= own)
    if valid is not None:
        allowed = allowed & (valid[:, own] & valid[:, seen.clamp(min=0)])
    bias, heads = _penalty(allowed, queries), query.shape[1]
    bias = bias.unsqueeze(0) if valid is None else bias.repeat_interleave(heads, dim=0)
    queries, keys, values = (x.flatten(0, 1) for x in (queries, keys, values))
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    return mixed.unflatten(0, (-1, heads)).flatten(2, 3)


def _cluster_bias(
    query_members: Tensor, key_members: Tensor, *, causal: bool, avoid_self: bool, valid: Tensor | None, like: Tensor
) -> Tensor | None:
    """What is added to the scores, (B, heads, K, n, n), if anything."""
    if not causal and not avoid_self and valid is None:
        return None
    queries, keys = query_members.unsqueeze(-1), key_members.unsqueeze(-2)
    allowed = queries >= keys if causal else torch.ones_like(queries >= keys)
    if valid is not None:
        real_query, real_key = (_members(valid[:, None, :, None], x).squeeze(-1) for x in (query_members, key_members))
        allowed = allowed & real_query.unsqueeze(-1) & real_key.unsqueeze(-2)
    bias = _penalty(allowed, like)
    return bias.masked_fill(queries == keys, LAST_RESORT) if avoid_self else bias


def _penalty(allowed: Tensor, like: Tensor) -> Tensor:
    """0, or so little that nothing is left of scores it is added to: where all are forbidden, all are alike."""
    return torch.zeros_like(allowed, dtype=like.dtype).masked_fill(~allowed, max(torch.finfo(like.dtype).min, -1e30))


def _members(x: Tensor, members: Tensor) -> Tensor:
    """(B, heads or 1, N, d), (B, heads, K, n) -> (B, heads, K, n, d)."""
    x = x.expand(-1, members.shape[1], -1, -1)
    return x.gather(2, _for_each_channel(members, x)).unflatten(2, members.shape[2:])


def _for_each_channel(members: Tensor, like: Tensor) -> Tensor:
    """(B, heads, K, n) -> (B, heads, K n, d)."""
    return members.flatten(2).unsqueeze(-1).expand(-1, -1, -1, like.shape[-1])
