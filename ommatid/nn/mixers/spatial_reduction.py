"""Spatial-reduction attention: every token looks at a coarser copy of the map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.nn.embed import PatchEmbed
from ommatid.ops.attention import attend


class SpatialReductionAttention(nn.Module):
    """Attention whose keys and values come from a reduced map: (B, H, W, C) -> (B, H, W, C).

    PVT (arXiv 2102.12122), PVT v2 (arXiv 2106.13797). With the identity as reduction a sequence (B, N, C) works too.
    Cost: (2 + 2/s) H W C^2 + 2 (H W)^2 C / s multiply-adds, plus the reduction's own, where the reduction leaves
    H W / s tokens.

    Args:
        dim: C.
        heads: number of heads; divides C.
        reduction: a module (B, H, W, C) -> (B, h, w, C): `strided_reduction`, `PooledReduction` or the identity.
        qkv_bias: bias of the query projection and of the joint key and value projection.
    """

    def __init__(self, dim: int, heads: int, reduction: nn.Module, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.reduction = reduction
        self.key_value = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x.flatten(1, -2)).unflatten(-1, (self.heads, -1))
        reduced = self.reduction(x).flatten(1, -2)
        key, value = self.key_value(reduced).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.proj(attend(query, key, value)).view(x.shape)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


def strided_reduction(dim: int, ratio: int) -> nn.Module:
    """A convolution over `ratio` x `ratio` patches and a norm; the identity for ratio 1. A remainder is dropped."""
    return PatchEmbed(dim, dim, ratio, norm=nn.LayerNorm(dim)) if ratio > 1 else nn.Identity()


class PooledReduction(nn.Module):
    """Adaptive average pooling to a fixed size, a linear layer, norm and GELU: (B, H, W, C) -> (B, size, size, C)."""

    def __init__(self, dim: int, size: int = 7) -> None:
        super().__init__()
        self.size = size
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), self.size).permute(0, 2, 3, 1)
        return self.act(self.norm(self.proj(pooled)))
