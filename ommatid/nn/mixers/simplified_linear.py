"""Simplified linear attention: ReLU in place of softmax, and a depthwise convolution for what is near."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.nn.deploy import scale_output_
from ommatid.nn.position import AbsolutePosition
from ommatid.ops.linear_attention import linear_attention


class SimplifiedLinearAttention(nn.Module):
    """ReLU linear attention plus a depthwise convolution of the values: (B, H, W, C) -> (B, H, W, C).

    SLAB (arXiv 2405.11582). Keys have learned positions, resampled where the map is of another size; all heads share
    the convolution's kernels. Cost: 4 H W C^2 + 2 H W C d + K^2 H W C multiply-adds, d = C / heads.

    Args:
        dim: C.
        heads: number of heads; divides C.
        grid: rows and columns of the position table.
        kernel_size: K, odd.
    """

    def __init__(self, dim: int, heads: int, grid: tuple[int, int], *, kernel_size: int = 5) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.position = AbsolutePosition(grid, dim)
        self.conv = depthwise_conv(dim // heads, kernel_size)
        self.proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.position.table)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query, key = F.relu(query), F.relu(self.position(key))
        by_heads = (part.flatten(1, 2).unflatten(-1, (self.heads, -1)) for part in (query, key, value))
        return self.proj(linear_attention(*by_heads).view(x.shape) + self.local(value))

    def local(self, value: Tensor) -> Tensor:
        """(B, H, W, C) -> the same: every head convolved with the same kernels."""
        assert self.conv.bias is not None
        weight, bias = self.conv.weight.repeat(self.heads, 1, 1, 1), self.conv.bias.repeat(self.heads)
        features = value.permute(0, 3, 1, 2)
        return F.conv2d(features, weight, bias, padding=self.conv.padding, groups=len(weight)).permute(0, 2, 3, 1)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
