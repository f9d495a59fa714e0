"""Global attention whose position bias depends on the query, by rows and by columns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.ops.attention import attend


class DecomposedPositionAttention(nn.Module):
    """Attention with decomposed relative positions: (B, H, W, C) -> (B, H, W, C), for any height and width.

    To the score of a query and a key is added the query's product with a learned vector for how many rows they are
    apart, and with one for the columns; the tables of both are resampled for maps of other sizes. MViTv2
    (arXiv 2112.01526), as in Segment Anything (arXiv 2304.02643). Cost: 4 H W C^2 + 2 (H W)^2 C + H W (H + W) C
    multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        size: rows and columns of the map that the tables are for.
        qkv_bias: bias of the joint query, key and value projection.
    """

    def __init__(self, dim: int, heads: int, size: tuple[int, int], *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.rows, self.columns = (nn.Parameter(torch.zeros(2 * side - 1, dim // heads)) for side in size)
        self.proj = nn.Linear(dim, dim)
        for table in (self.rows, self.columns):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        query, key, value = self.qkv(x.flatten(1, 2)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        grid = query.unflatten(1, (height, width))
        rows = torch.einsum("byxhd,ykd->bhyxk", grid, of_offsets(self.rows, height).to(grid.dtype))
        columns = torch.einsum("byxhd,xkd->bhyxk", grid, of_offsets(self.columns, width).to(grid.dtype))
        bias = (rows[..., None] + columns[..., None, :]).flatten(4).flatten(2, 3)
        return self.proj(attend(query, key, value, bias=bias)).view(x.shape)

    def input_layers(self) -> tuple[nn.Module, ...]:
        """What alone reads the input, so that a constant scale and shift of it can be folded in."""
        return (self.qkv,)


def of_offsets(table: Tensor, side: int) -> Tensor:
    """(2 n - 1, d), by offset, -> (side, side, d), by query and key; resampled linearly where n is not `side`."""
    if len(table) != 2 * side - 1:
        table = F.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T
    place = torch.arange(side, device=table.device)
    return table[place[:, None] - place + side - 1]
