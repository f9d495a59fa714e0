"""Causal attention of heads that look back differently far, in blocks; every head also sees the first block.

From "Mixture of Attention Spans" (arXiv 2406.14909). A head's rule (alpha, beta) gives its window at length N:
alpha + beta N tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def block_layout(alphas: Tensor, betas: Tensor, blocks: int, block_size: int) -> Tensor:
    """Which blocks of keys each block of queries sees: (R) rules, (R) -> booleans (R, blocks, blocks).

    A row sees block 0 and the last w blocks up to its own, with w = floor(alpha / block_size) + beta blocks, rounded
    down and at least 1.
    """
    width = ((alphas / block_size).floor() + betas * blocks).trunc().clamp(min=1)
    row = torch.arange(blocks, device=alphas.device)
    distance = row[:, None] - row
    near = distance < width[:, None, None]
    return (distance >= 0) & (near | (row == 0))


def elastic_window_attention(query: Tensor, key: Tensor, value: Tensor, layout: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over what the layout and causality allow.

    query, key, value: (B, heads, N, d). layout: (heads, N / block, N / block) booleans. Returns (B, heads, N, d).
    """
    length = query.shape[2]
    block = length // layout.shape[-1]
    allowed = layout.repeat_interleave(block, 1).repeat_interleave(block, 2)
    allowed = allowed & torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
