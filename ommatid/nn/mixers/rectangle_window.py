"""Rectangle window attention: half of the heads look inside flat windows, half inside tall ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.nn.deploy import scale_output_
from ommatid.nn.mixers.window import masked_bias
from ommatid.nn.position import dynamic_bias
from ommatid.ops.attention import attend
from ommatid.ops.shifted_windows import mix_in_windows
from ommatid.ops.slices import in_slices
from ommatid.ops.windows import pad_to_multiple


class RectangleWindowAttention(nn.Module):
    """Attention inside (shifted) a x b windows for half of the channels, b x a for the rest: (B, H, W, C) -> same.

    "Cross Aggregation Transformer for Image Restoration" (arXiv 2211.13654), with the dynamic position bias of RGT
    (arXiv 2303.06373). A depthwise convolution of the values is added to what the heads found. Where the windows do not
    divide the map, queries, keys and values are zero-padded at the bottom and right, and nothing masks the padding.
    Cost: 4 H W C^2 + 2 a b H W C + 9 H W C multiply-adds.

    Args:
        dim: C, at least 32.
        heads: number of heads: even, and divides C.
        window: (a, b).
        shifted: whether windows are shifted against the map's corner, by half of their sides.
        qkv_bias: bias of the joint query, key and value projection, which is ordered (3, heads, C / heads).
    """

    def __init__(
        self, dim: int, heads: int, window: tuple[int, int], *, shifted: bool = False, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        rows, columns = window
        self.multiple = (math.lcm(rows, columns),) * 2
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.local = depthwise_conv(dim, 3)
        self.branches = nn.ModuleList(
            WindowBranch(dim // 2, heads // 2, shape, shifted=shifted) for shape in ((rows, columns), (columns, rows))
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width, dim = x.shape[1:]
        qkv = self.qkv(x)
        shares = pad_to_multiple(qkv, self.multiple).unflatten(-1, (3, 2, -1)).unbind(4)
        mixed = [branch(share) for branch, share in zip(self.branches, shares, strict=True)]
        return self.proj(torch.cat(mixed, dim=-1)[:, :height, :width] + self.local(qkv[..., 2 * dim :]))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


class WindowBranch(nn.Module):
    """Attention inside windows of one shape: queries, keys and values (B, H, W, 3, C) -> (B, H, W, C).

    Args:
        dim: C.
        heads: number of heads; divides C.
        window: rows and columns; H and W are multiples of them.
        shifted: whether windows are shifted by half of their sides.
    """

    def __init__(self, dim: int, heads: int, window: tuple[int, int], *, shifted: bool) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.shift = (window[0] // 2, window[1] // 2) if shifted else (0, 0)
        self.bias = dynamic_bias(window, heads, dim // 16)

    def forward(self, qkv: Tensor) -> Tensor:
        bias = self.bias()

        def mix(windows: Tensor, foreign: Tensor | None) -> Tensor:
            masked = masked_bias(bias, foreign)
            return in_slices(lambda some: self.attend_windows(some, masked), windows)

        return mix_in_windows(mix, qkv, self.window, self.shift)

    def attend_windows(self, windows: Tensor, bias: Tensor) -> Tensor:
        """(n, N, 3, C) -> (n, N, C), every window by itself; bias (heads, N, N)."""
        query, key, value = windows.unflatten(-1, (self.heads, -1)).unbind(2)
        return attend(query, key, value, bias=bias)
