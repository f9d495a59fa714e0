"""Neighbourhood attention: every token looks at the window around itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.neighborhood import neighborhood_attention_2d


class NeighborhoodAttention(nn.Module):
    """Self-attention over the K x K nearest tokens on a (dilated) grid: (B, H, W, C) -> (B, H, W, C).

    NAT (arXiv 2204.07143), with dilation DiNAT (arXiv 2209.15001). Maps smaller than kernel_size * dilation are
    zero-padded at the bottom and right before the projection, so that padded tokens are ordinary keys (NATTEN to 0.14).
    Cost: 4 H W C^2 + 2 K^2 H W C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        kernel_size: K, odd.
        dilation: distance between neighbours.
        qkv_bias: bias of the joint query, key and value projection.
    """

    def __init__(self, dim: int, heads: int, kernel_size: int, *, dilation: int = 1, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.bias = nn.Parameter(torch.zeros(heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        smallest = self.kernel_size * self.dilation
        bottom, right = max(0, smallest - height), max(0, smallest - width)
        padded = F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x
        query, key, value = self.qkv(padded).unflatten(-1, (3, self.heads, -1)).unbind(3)
        mixed = neighborhood_attention_2d(
            query, key, value, kernel_size=self.kernel_size, dilation=self.dilation, bias=self.bias
        )
        return self.proj(mixed[:, :height, :width].flatten(3))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
