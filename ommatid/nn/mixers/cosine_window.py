"""Cosine window attention: what counts is the angle between query and key, not their lengths."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.mixers.window import WindowAttention
from ommatid.nn.position import log_spaced_bias
from ommatid.nn.projection import UnbiasedKeyProjection


def cosine_window_attention(
    dim: int,
    heads: int,
    window_size: int,
    *,
    shift: int = 0,
    qkv_bias: bool = True,
    trained_window: int | None = None,
) -> WindowAttention:
    """The window attention of Swin Transformer V2 (arXiv 2111.09883): (B, H, W, C) -> (B, H, W, C).

    Scaled cosines for scores, a position bias from log-spaced offsets, no bias of keys. Cost: that of
    `WindowAttention`, and 512 (2 M - 1)^2 (2 + heads) multiply-adds for the position bias, which `deploy()` removes.

    Args:
        dim, heads, window_size, shift: as in `WindowAttention`.
        qkv_bias: bias of queries and values.
        trained_window: window size whose offsets span the range of the position bias; `window_size` where None.
    """
    window = (window_size, window_size)
    trained = None if trained_window is None else (trained_window, trained_window)
    return WindowAttention(
        dim,
        heads,
        window_size,
        shift=shift,
        qkv=UnbiasedKeyProjection(dim) if qkv_bias else nn.Linear(dim, 3 * dim, bias=False),
        similarity=ScaledCosine(heads),
        bias=log_spaced_bias(window, heads, trained_window=trained),
    )


class ScaledCosine(nn.Module):
    """Queries and keys (B, N, heads, d) whose products, over sqrt(d), are their cosines times a learned factor.

    The factor, one per head, is at most 100.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((heads, 1), math.log(10)))

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.log_scale.clamp(max=math.log(100)).exp() * math.sqrt(query.shape[-1])
        return F.normalize(query, dim=-1) * scale.to(query.dtype), F.normalize(key, dim=-1)
