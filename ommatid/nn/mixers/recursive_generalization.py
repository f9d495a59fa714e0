"""Recursive generalization attention: every token looks at a small summary of the map, however large the map is."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from ommatid.nn.conv import Conv2d, depthwise_conv
from ommatid.nn.deploy import scale_output_
from ommatid.nn.position import ConvPosition
from ommatid.ops.attention import attend
from ommatid.ops.refusal import require_map

# How much one step of the recursion shortens each side.
STRIDE = 4


class RecursiveGeneralizationAttention(nn.Module):
    """Attention to a map reduced T times by the same strided convolution: (B, H, W, C) -> (B, H, W, C).

    RGT (arXiv 2303.06373). Queries and keys are narrower than the values. Cost: H W (C^2 + r C^2 + 1.1 C)
    + (1 + r) H W M C + M (3 r + r^2 + 18) C^2 multiply-adds at most, where M = H W / 16^T keys are left.

    Args:
        dim: C.
        heads: number of heads; divides C and int(r C).
        channel_ratio: r, the width of the summary, the queries and the keys, as a share of C.
        qkv_bias: bias of the query, key and value projections.

    Raises:
        ValueError (forward): a side is too short for the recursion that the longer side asks for.
    """

    def __init__(self, dim: int, heads: int, *, channel_ratio: float = 0.5, qkv_bias: bool = True) -> None:
        super().__init__()
        narrow = int(dim * channel_ratio)
        self.heads = heads
        self.scale = (dim // heads * channel_ratio) ** -0.5
        self.reduction = Conv2d(dim, dim, STRIDE, stride=STRIDE, groups=dim)
        self.summary = nn.Sequential(
            OrderedDict(
                local=depthwise_conv(dim, 3),
                proj=Conv2d(dim, narrow, 1),
                norm=nn.LayerNorm(narrow),
                act=nn.GELU(),
            )
        )
        self.query = nn.Linear(dim, narrow, bias=qkv_bias)
        self.key = nn.Linear(narrow, narrow, bias=qkv_bias)
        self.value = nn.Linear(narrow, dim, bias=qkv_bias)
        self.position = ConvPosition(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        steps = recursion_steps(max(x.shape[1:3]), training=self.training)
        shortest = shortest_side(max(x.shape[1:3]), training=self.training)
        require_map(min(x.shape[1:3]) >= shortest, x, f"at least {shortest} a side next to its longer side")
        reduced = x
        for _ in range(steps):
            reduced = self.reduction(reduced)
        summary = self.summary(reduced)
        heads = (self.query(x), self.key(summary), self.position(self.value(summary)))
        query, key, value = (features.flatten(1, 2).unflatten(-1, (self.heads, -1)) for features in heads)
        return self.proj(attend(query, key, value, scale=self.scale)).view(x.shape)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


def recursion_steps(longer_side: int, *, training: bool) -> int:
    """T for a map: as many as leave 4 to 15 tokens of the longer side in training; 16 to 63 after it, but at least 2.

    The maps of the training are small crops; T = 2 is what it takes for the usual ones of 64 tokens a side.
    """
    steps, left = (0, STRIDE) if training else (2, STRIDE**2)
    while longer_side // left >= STRIDE ** (steps + 1):
        steps += 1
    return steps


def shortest_side(longer_side: int, *, training: bool) -> int:
    """Tokens that the shorter side of a map needs at least, of which the recursion leaves one."""
    return STRIDE ** recursion_steps(longer_side, training=training)
