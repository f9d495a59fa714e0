"""HiLo attention: some heads look closely at small windows, the others at a pooled copy of the whole map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.pool import AvgPool2d
from ommatid.ops.attention import attend
from ommatid.ops.windows import merge, pad_to_multiple, partition


class HiLoAttention(nn.Module):
    """High- and low-frequency heads side by side: (B, H, W, C) -> (B, H, W, C).

    LITv2 (arXiv 2205.13213). Maps that are no multiple of the window are zero-padded at the bottom and right; nothing
    masks the padding. With windows of one token this is plain attention.
    Cost: H W (3 C C_h + 2 s^2 C_h + C_h^2) for the high heads, H W (C C_l + 2 C C_l / s^2 + 2 H W C_l / s^2 + C_l^2)
    multiply-adds for the low ones, C_h and C_l channels wide.

    Args:
        dim: C.
        heads: number of all heads; divides C.
        window_size: s.
        alpha: share of the low-frequency heads, whose number is rounded down.
        qkv_bias: bias of the query, key and value projections.
    """

    def __init__(self, dim: int, heads: int, window_size: int, *, alpha: float = 0.9, qkv_bias: bool = True) -> None:
        super().__init__()
        self.window = (window_size, window_size)
        self.low_heads = heads if window_size == 1 else int(heads * alpha)
        self.high_heads = heads - self.low_heads
        high, low = (count * (dim // heads) for count in (self.high_heads, self.low_heads))
        if high:
            self.high_qkv = nn.Linear(dim, 3 * high, bias=qkv_bias)
            self.high_proj = nn.Linear(high, high)
        if low:
            self.pool = AvgPool2d(window_size) if window_size > 1 else nn.Identity()
            self.low_query = nn.Linear(dim, low, bias=qkv_bias)
            self.low_key_value = nn.Linear(dim, 2 * low, bias=qkv_bias)
            self.low_proj = nn.Linear(low, low)

    def forward(self, x: Tensor) -> Tensor:
        padded = pad_to_multiple(x, self.window)
        found = [self.attend_high(padded)[:, : x.shape[1], : x.shape[2]]] if self.high_heads else []
        found += [self.attend_low(x, padded)] if self.low_heads else []
        return torch.cat(found, dim=-1) if len(found) > 1 else found[0]

    def attend_high(self, padded: Tensor) -> Tensor:
        """(B, H', W', C) -> (B, H', W', C_h), within windows."""
        windows = partition(padded, self.window)
        query, key, value = self.high_qkv(windows.flatten(0, 1)).unflatten(-1, (3, self.high_heads, -1)).unbind(2)
        mixed = self.high_proj(attend(query, key, value)).unflatten(0, windows.shape[:2])
        return merge(mixed, self.window, (padded.shape[1], padded.shape[2]))

    def attend_low(self, x: Tensor, padded: Tensor) -> Tensor:
        """(B, H, W, C), and the same with its padding -> (B, H, W, C_l), over the means of windows."""
        query = self.low_query(x.flatten(1, 2)).unflatten(-1, (self.low_heads, -1))
        pooled = self.pool(padded).flatten(1, 2)
        key, value = self.low_key_value(pooled).unflatten(-1, (2, self.low_heads, -1)).unbind(2)
        return self.low_proj(attend(query, key, value)).unflatten(1, x.shape[1:3])
