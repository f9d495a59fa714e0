"""Sliding-window attention on sequences: every token reads itself and the few just before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.ops.sequence_blocks import block_positions, with_neighbors

SMALLEST_BLOCK = 32
"""Blocks of fewer tokens cost more in calls than they save in products."""


def sliding_window_attention(query: Tensor, key: Tensor, value: Tensor, *, reach: int) -> Tensor:
    """Causal softmax attention of every token to itself and the `reach` tokens before it, scaled by d ** -0.5.

    Works in blocks of at least `reach` tokens, each with the block before it. Cost: 4 N d max(reach, 32) multiply-adds
    a head.

    Args:
        query, key, value: (B, N, heads, d).

    Returns:
        (B, N, heads, d).
    """
    length, size = query.shape[1], max(reach, SMALLEST_BLOCK)
    if length <= 2 * size:
        size = length
    query, key, value = (_blocks(x, size) for x in (query, key, value))
    blocks, before = query.shape[2], int(size < length)
    own = block_positions(blocks, size, before=0, device=query.device)[:, :, None]
    seen = block_positions(blocks, size, before=before, device=query.device)[:, None]
    allowed = (seen >= 0) & (seen <= own) & (seen >= own - reach)
    keys, values = (with_neighbors(x, before=before) for x in (key, value))
    mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=allowed[None, None])
    return mixed.flatten(2, 3)[:, :, :length].transpose(1, 2)


def sliding_window_attention_reference(query: Tensor, key: Tensor, value: Tensor, *, reach: int) -> Tensor:
    """`sliding_window_attention` by its definition, with all N x N scores."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    steps = torch.arange(query.shape[2], device=query.device)
    age = steps[:, None] - steps
    scores = (query @ key.mT) * query.shape[-1] ** -0.5
    weights = scores.masked_fill((age < 0) | (age > reach), -torch.inf).softmax(-1)
    return (weights @ value).transpose(1, 2)


def _blocks(x: Tensor, size: int) -> Tensor:
    """(B, N, heads, d) -> (B, heads, blocks, size, d), with zeros at the end."""
    return F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size)).unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4)
