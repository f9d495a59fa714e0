"""Where a token is: relative position biases, and absolute tables that follow the map's size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RelativePositionBias(nn.Module):
    """A learned bias per head for every offset between two tokens of a window; () -> (heads, N, N), N = rows * columns.

    Entry (query - key + window - 1) of a table over offsets, row-major, shaped ((2 rows - 1)(2 columns - 1), heads).
    From Swin Transformer (arXiv 2103.14030).
    """

    def __init__(self, window: tuple[int, int], heads: int) -> None:
        super().__init__()
        rows, columns = window
        self.index: Tensor
        self.table = nn.Parameter(torch.zeros((2 * rows - 1) * (2 * columns - 1), heads))
        self.register_buffer("index", relative_index(window), persistent=False)
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self) -> Tensor:
        tokens = len(self.index)
        return self.table[self.index.flatten()].view(tokens, tokens, -1).permute(2, 0, 1).contiguous()


def relative_index(window: tuple[int, int]) -> Tensor:
    """(N, N) integers: which row of a relative position table belongs to each (query, key) pair of a window."""
    rows, columns = window
    y = torch.arange(rows).repeat_interleave(columns)
    x = torch.arange(columns).repeat(rows)
    dy = y[:, None] - y[None, :] + rows - 1
    dx = x[:, None] - x[None, :] + columns - 1
    return dy * (2 * columns - 1) + dx


def resample_positions(table: Tensor, size: tuple[int, int]) -> Tensor:
    """A table of absolute positions (1, h, w, C) for a map of another size: bicubic, antialiased, in float32."""
    if table.shape[1:3] == size:
        return table
    channels_first = table.permute(0, 3, 1, 2).float()
    resized = F.interpolate(channels_first, size=size, mode="bicubic", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).to(table.dtype)
