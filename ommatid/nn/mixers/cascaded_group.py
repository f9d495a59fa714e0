"""Cascaded group attention: each head has channels of its own, and hears what the head before it found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.deploy import scale_output_
from ommatid.nn.position import DistanceBias
from ommatid.ops.attention import attend
from ommatid.ops.refusal import require_map


class CascadedGroupAttention(nn.Module):
    """Self-attention over a map of a fixed size: (B, rows, columns, C) -> (B, rows, columns, C).

    EfficientViT (arXiv 2305.07027). Head i attends over the i-th of `heads` groups of channels plus the output of
    head i - 1. Maps of any other size go through `Windowed(CascadedGroupAttention(...), window)`.
    Cost: H W (C (2 K + C / heads) + sum k_i^2 K + C^2) + (H W)^2 (heads K + C) multiply-adds, with K = key_dim.

    Args:
        dim: C.
        heads: number of heads; divides C.
        key_dim: K, the width of queries and keys of one head.
        window: rows and columns of the map.
        kernel_sizes: k_i, the kernel of the depthwise convolution on the queries, of each head; odd.

    Raises:
        ValueError: in the forward pass, a map of another size.
    """

    def __init__(
        self, dim: int, heads: int, key_dim: int, window: tuple[int, int], kernel_sizes: Sequence[int]
    ) -> None:
        super().__init__()
        self.window = window
        width = dim // heads
        self.widths = [key_dim, key_dim, width]
        self.scale = key_dim**-0.5
        self.qkv = nn.ModuleList(ConvNorm(width, sum(self.widths), 1) for _ in range(heads))
        self.query_conv = nn.ModuleList(
            ConvNorm(key_dim, key_dim, kernel_size, groups=key_dim) for kernel_size in kernel_sizes
        )
        self.bias = DistanceBias(window, heads)
        self.proj = ConvNorm(dim, dim, 1, scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        require_map(tuple(x.shape[1:3]) == self.window, x, f"{self.window}: other maps go through `Windowed`")
        groups = x.chunk(len(self.qkv), dim=-1)
        heads: list[Tensor] = []
        for group, qkv, query_conv, bias in zip(groups, self.qkv, self.query_conv, self.bias(), strict=True):
            query, key, value = qkv(group + heads[-1] if heads else group).split(self.widths, dim=-1)
            tokens = [part.flatten(1, 2).unsqueeze(2) for part in (query_conv(query), key, value)]
            heads.append(attend(*tokens, bias=bias, scale=self.scale).view(group.shape))
        return self.proj(F.relu(torch.cat(heads, dim=-1)))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj.conv, scale)
