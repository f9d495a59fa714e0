"""Lowtention: attention on a smaller map, with narrower heads, between a depthwise and a transposed convolution."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm, ConvTranspose2d
from ommatid.nn.deploy import scale_output_
from ommatid.ops.attention import attend


class Lowtention(nn.Module):
    """Self-attention at 1 / s of the resolution: (B, H, W, C) -> (B, H, W, C).

    LowFormer (arXiv 2409.03460). The transposed convolution is the output projection as well.
    Cost: H W / s^2 ((2 s + 1)^2 C + 3 C E + (s + 2)^2 E C) + 2 (H W / s^2)^2 E multiply-adds,
    with E = heads * head_dim.

    Args:
        dim: C.
        heads: number of heads.
        head_dim: width of queries, keys and values of one head.
        stride: s.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, *, stride: int = 1) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.shrink = ConvNorm(dim, dim, 2 * stride + 1, stride=stride, groups=dim)
        self.qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.grow = ConvTranspose2d(inner, dim, stride + 2, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.shrink(x)
        query, key, value = self.qkv(low.flatten(1, 2)).unflatten(-1, (self.heads, 3, -1)).unbind(-2)
        mixed = attend(query, key, value).unflatten(1, low.shape[1:3])
        return self.grow(mixed)[:, : x.shape[1], : x.shape[2]]

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.grow, scale)
