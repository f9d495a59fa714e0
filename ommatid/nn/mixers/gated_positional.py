"""Gated positional self-attention: every head chooses between what tokens hold and where they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.attention import attend


class GatedPositionalAttention(nn.Module):
    """(1 - g) attention by content + g attention by relative position, g of each head: (B, H, W, C) -> (B, H, W, C).

    ConViT (arXiv 2103.10697). The positional scores are a learned linear function of (dx, dy, dx^2 + dy^2), so their
    softmax over the map is the product of one over its rows and one over its columns, and is applied as two.
    Cost: 4 H W C^2 + 2 (H W)^2 C + H W (H + W) C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        qkv_bias: bias of the joint query, key and value projection, which is ordered (3, heads, C / heads).
    """

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.position = nn.Linear(3, heads)
        self.gate = nn.Parameter(torch.ones(heads))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        query, key, value = self.qkv(x.flatten(1, 2)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        by_content = attend(query, key, value).view(x.shape)
        rows, columns = self.position_weights(size)
        by_row = torch.einsum("hij,bjwhd->biwhd", rows, value.unflatten(1, size))
        by_position = torch.einsum("hij,bwjhd->bwihd", columns, by_row).flatten(3)
        gate = self.gate.sigmoid().repeat_interleave(x.shape[-1] // self.heads)
        return self.proj(by_content + gate * (by_position - by_content))

    def position_weights(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(heads, H, H) and (heads, W, W): how much each row attends to each row, and each column to each column."""
        across, down, squared = self.position.weight[:, :, None, None].unbind(1)
        rows, columns = (offsets(length).to(down) for length in size)
        # The bias is the same for every pair, so the softmax cancels it; the reference has it too.
        row_scores = down * rows + squared * rows.square() + self.position.bias[:, None, None]
        return row_scores.softmax(-1), (across * columns + squared * columns.square()).softmax(-1)

    @torch.no_grad()
    def init_locality_(self, strength: float) -> None:
        """Starts as a convolution: head a + K b attends to the patch (a, b) - (K - 1) / 2 rows and columns away.

        K = floor(sqrt(heads)); heads beyond K^2 keep their weights. The higher the strength, the narrower.
        """
        side, dim = math.isqrt(self.heads), self.proj.in_features
        nn.init.eye_(self.qkv.weight[2 * dim :])
        places = torch.arange(side) - (side - 1) / 2
        across, down = places.repeat_interleave(side), places.repeat(side)
        local = torch.stack([2 * across, 2 * down, -torch.ones(side**2)], dim=1)
        self.position.weight[: side**2] = strength * local

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


def offsets(length: int) -> Tensor:
    """(length, length): how far place j lies after place i."""
    places = torch.arange(length)
    return places[None, :] - places[:, None]
