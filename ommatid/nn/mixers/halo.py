"""Halo attention: the queries of a block look at the block and at a band around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.pool import AvgPool2d
from ommatid.ops.attention import attend
from ommatid.ops.windows import merge, pad_to_multiple, partition, partition_with_halo


class HaloAttention(nn.Module):
    """Blocked local self-attention, with stride 2 if wanted: (B, H, W, C) -> (B, H', W', C), H' = ceil(H / stride).

    HaloNet (arXiv 2103.12731). Keys beyond the border are zeros that nothing masks; a map that is not made of whole
    blocks is continued with the same zeros. There is no output projection.
    Cost: H W (C (2 Q + C) + w^2 (Q + C) + 4 w Q) multiply-adds, with w = block_size + 2 halo_size and
    Q = heads * head_dim, for stride 1.

    Args:
        dim: C.
        heads: number of heads; divides C.
        block_size: rows and columns of a block.
        halo_size: width of the band.
        head_dim: width of queries and keys of one head; C / heads where None.
        stride: 1 or 2. Every second query is left out where the block is even; otherwise the result is averaged.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        block_size: int,
        halo_size: int,
        *,
        head_dim: int | None = None,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.heads, self.stride = heads, stride
        self.block, self.halo = block_size, halo_size
        self.query_stride = stride if block_size % stride == 0 else 1
        self.widths = [head_dim or dim // heads, dim // heads]
        self.scale = self.widths[0] ** -0.5
        self.query = nn.Linear(dim, heads * self.widths[0], bias=False)
        self.key_value = nn.Linear(dim, heads * sum(self.widths), bias=False)
        side = block_size + 2 * halo_size
        self.positions = QueryPositionBias(block_size // self.query_stride, side, self.widths[0])
        self.pool = AvgPool2d(stride) if stride != self.query_stride else nn.Identity()
        for layer in (self.query, self.key_value):
            nn.init.trunc_normal_(layer.weight, std=dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (-(-side // self.stride) for side in x.shape[1:3])
        multiple = self.block if isinstance(self.pool, nn.Identity) else 2 * self.block
        x = pad_to_multiple(x, (multiple, multiple))
        step = self.query_stride
        block = (self.block // step, self.block // step)
        query_map = self.query(x[:, ::step, ::step])
        query = partition(query_map, block).flatten(0, 1).unflatten(-1, (self.heads, -1))
        windows = partition_with_halo(self.key_value(x), self.block, self.halo).flatten(0, 1)
        key, value = windows.unflatten(-1, (self.heads, -1)).split(self.widths, dim=-1)
        mixed = attend(query, key, value, bias=self.positions(query), scale=self.scale)
        mixed = mixed.unflatten(0, (x.shape[0], -1))
        return self.pool(merge(mixed, block, (query_map.shape[1], query_map.shape[2])))[:, :height, :width]


class QueryPositionBias(nn.Module):
    """What a query adds to its scores by the key's place, a row and a column part: (B, c^2, heads, d) -> scores.

    Scores are (B, heads, c^2, w^2). Rows and columns are counted from the corner of the block of queries and from that
    of the window of keys. From "Attention Augmented Convolutional Networks" (arXiv 1904.09925).

    Args:
        block: c, rows and columns of a block of queries.
        window: w, rows and columns of a window of keys.
        head_dim: d.
    """

    def __init__(self, block: int, window: int, head_dim: int) -> None:
        super().__init__()
        self.block = block
        self.rows = nn.Parameter(torch.empty(2 * window - 1, head_dim))
        self.columns = nn.Parameter(torch.empty(2 * window - 1, head_dim))
        self.index: Tensor
        offsets = torch.arange(window)[None, :] - torch.arange(block)[:, None] + window - 1
        self.register_buffer("index", offsets, persistent=False)
        for table in (self.rows, self.columns):
            nn.init.trunc_normal_(table, std=head_dim**-0.5)

    def forward(self, query: Tensor) -> Tensor:
        queries = query.unflatten(1, (self.block, self.block))
        by_row = torch.einsum("byxhd,yid->bhyxi", queries, self.rows[self.index])
        by_column = torch.einsum("byxhd,xjd->bhyxj", queries, self.columns[self.index])
        return (by_row[..., :, None] + by_column[..., None, :]).flatten(4).flatten(2, 3)
