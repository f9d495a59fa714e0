"""Super token attention: the map is summed up in super tokens, these attend to each other, and give back to the map."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.nn.mixers.attention import Attention
from ommatid.ops.super_tokens import sample_super_tokens, spread
from ommatid.ops.windows import merge, pad_to_multiple, partition


class SuperTokenAttention(nn.Module):
    """Self-attention of super tokens, one for each s x s cell of the map: (B, H, W, C) -> (B, H, W, C).

    STViT (arXiv 2211.11167). Maps that are no multiple of s are zero-padded at the bottom and right, and the padding
    has its share of the super tokens. Cost, with m = H W / s^2 super tokens and T iterations:
    9 (1 + 2 T) H W C + 4 m C^2 + 2 m^2 C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        cell_size: s.
        iterations: T, of the association of pixels and super tokens.
        qkv_bias: bias of the joint query, key and value projection.
    """

    def __init__(self, dim: int, heads: int, cell_size: int, *, iterations: int = 1, qkv_bias: bool = True) -> None:
        super().__init__()
        self.cell = (cell_size, cell_size)
        self.iterations = iterations
        self.attention = Attention(dim, heads, qkv_bias=qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        padded = pad_to_multiple(x, self.cell)
        size = (padded.shape[1], padded.shape[2])
        grid = (size[0] // self.cell[0], size[1] // self.cell[1])
        cells = partition(padded, self.cell).unflatten(1, grid)
        super_tokens, shares = sample_super_tokens(cells, self.iterations)
        mixed = spread(shares, self.attention(super_tokens))
        return merge(mixed.flatten(1, 2), self.cell, size)[:, :height, :width]

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.attention.proj, scale)
