"""Overlapping cross-attention: the queries of a window look at a larger window around it."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.nn.position import RelativePositionBias
from ommatid.ops.attention import attend
from ommatid.ops.windows import merge, pad_to_multiple, partition, partition_with_halo


class OverlappingCrossAttention(nn.Module):
    """Attention from windows to windows that overlap, with a relative position bias: (B, H, W, C) -> (B, H, W, C).

    HAT (arXiv 2205.04437). Keys and values beyond the border are zeros that nothing masks; so are those beyond maps
    that are no multiple of the window. Cost: 4 H W C^2 + 2 (M + 2 O)^2 H W C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        window_size: M, rows and columns of the queries' windows.
        halo_size: O, by how much the windows of the keys reach further on every side.
        qkv_bias: bias of the joint query, key and value projection, which is ordered (3, heads, C / heads).
    """

    def __init__(self, dim: int, heads: int, window_size: int, halo_size: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.window = (window_size, window_size)
        self.halo = halo_size
        reach = window_size + 2 * halo_size
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.bias = RelativePositionBias(self.window, heads, keys=(reach, reach))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width, dim = x.shape[1:]
        query_map, key_value_map = pad_to_multiple(self.qkv(x), self.window).split([dim, 2 * dim], dim=-1)
        query = partition(query_map, self.window).flatten(0, 1).unflatten(-1, (self.heads, -1))
        around = partition_with_halo(key_value_map, self.window[0], self.halo).flatten(0, 1)
        key, value = around.unflatten(-1, (2, self.heads, -1)).unbind(2)
        mixed = attend(query, key, value, bias=self.bias()).unflatten(0, (x.shape[0], -1))
        merged = merge(mixed, self.window, (query_map.shape[1], query_map.shape[2]))
        return self.proj(merged[:, :height, :width])

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
