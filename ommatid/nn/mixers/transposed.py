"""Transposed attention: channels look at each other, known by their maps, and not positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.ops.local_tiles import average_tiles, cut_tiles

SMALLEST_LENGTH = 1e-12


class TransposedAttention(nn.Module):
    """Attention between the channels of a head, by the cosine of their maps: (B, H, W, C) -> (B, H, W, C).

    Restormer (arXiv 2111.09881). With ReLU for the softmax it is the sparse global attention of DLGSANet (arXiv
    2301.02031): channels that are not alike do not meet at all. The mixed channels are never written down, since
    attention and projection are one matrix for all positions. Cost: 6 H W C^2 + 27 H W C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        act: turns the scores (..., queries, keys) into weights; softmax over the keys where None.
        tile: in evaluation, the side of the overlapping tiles that each attend on their own (ops/local_tiles.py); None
            for the whole map.
    """

    def __init__(self, dim: int, heads: int, *, act: nn.Module | None = None, tile: int | None = None) -> None:
        super().__init__()
        self.heads, self.tile = heads, tile
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.conv = depthwise_conv(3 * dim, 3, bias=False)
        self.act = act or nn.Softmax(-1)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.conv(self.qkv(x))
        if self.training or self.tile is None or (x.shape[1] <= self.tile and x.shape[2] <= self.tile):
            return self.attend(qkv)
        tiles = self.attend(cut_tiles(qkv, self.tile))
        return average_tiles(tiles, (x.shape[1], x.shape[2]), self.tile)

    def attend(self, qkv: Tensor) -> Tensor:
        """(B, H, W, 3C) -> (B, H, W, C)."""
        query, key, value = qkv.flatten(1, 2).chunk(3, dim=-1)
        weights = self.act(self.cosines(query, key) * self.temperature)
        projection = self.proj.weight.unflatten(1, (self.heads, -1)).transpose(0, 1)
        mixing = (projection @ weights.to(value.dtype)).transpose(1, 2).flatten(2)  # (B, C out, C in)
        return (value @ mixing.mT).view(*qkv.shape[:3], -1)

    def cosines(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, N, C), (B, N, C) -> (B, heads, d, d), in float32: sums over a whole picture overflow half precision."""
        with torch.autocast(query.device.type, enabled=False):
            query, key = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (query, key))
            products = (query.mT @ key).unflatten(2, (self.heads, -1)).unflatten(1, (self.heads, -1))
            within_heads = products.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
            across, down = (
                torch.linalg.vector_norm(part, dim=1).clamp(min=SMALLEST_LENGTH).unflatten(1, (self.heads, -1))
                for part in (query, key)
            )
            return within_heads / across.unsqueeze(-1) / down.unsqueeze(-2)
