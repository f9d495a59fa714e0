"""Single-head attention on a part of the channels, the others passing by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.deploy import scale_output_
from ommatid.nn.norm import GroupNorm
from ommatid.ops.attention import attend


class SingleHeadAttention(nn.Module):
    """Self-attention with one head on the first P channels of a map: (B, H, W, C) -> (B, H, W, C).

    SHViT (arXiv 2401.16456). The other channels meet the attended ones in the output projection, whose batch norm
    starts at zero. Cost: H W (P (2 K + P) + C^2) + (H W)^2 (K + P) multiply-adds, with K = key_dim.

    Args:
        dim: C.
        partial_dim: P, at most C.
        key_dim: K, the width of queries and keys.
    """

    def __init__(self, dim: int, partial_dim: int, key_dim: int) -> None:
        super().__init__()
        self.parts = [partial_dim, dim - partial_dim]
        self.widths = [key_dim, key_dim, partial_dim]
        self.norm = GroupNorm(1, partial_dim)
        self.qkv = ConvNorm(partial_dim, sum(self.widths), 1)
        self.proj = ConvNorm(dim, dim, 1, scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        attending, passing = x.split(self.parts, dim=-1)
        query, key, value = self.qkv(self.norm(attending)).flatten(1, 2).unsqueeze(2).split(self.widths, dim=-1)
        attended = attend(query, key, value).view(attending.shape)
        return self.proj(F.relu(torch.cat([attended, passing], dim=-1)))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj.conv, scale)
