"""Cross-shaped window attention: half of the heads look along columns of the map, half along rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.nn.deploy import scale_output_
from ommatid.ops.attention import attend
from ommatid.ops.windows import center_crop, center_pad_to_multiple, merge, partition


class CrossShapedAttention(nn.Module):
    """Attention in vertical stripes for half of the channels and in horizontal ones for the rest: (B, H, W, C) -> same.

    CSWin Transformer (arXiv 2107.00652). Where a stripe does not divide the map, queries, keys and values are
    zero-padded around it, and the padding is not masked, as in the authors' dense prediction code.
    Cost: 4 H W C^2 + s (H + W) H W C + 9 H W C multiply-adds for stripes s wide; 4 H W C^2 + 2 (H W)^2 C + 9 H W C
    without stripes.

    Args:
        dim: C.
        heads: number of heads; divides C, and is even where there are stripes.
        stripe_width: s; None for one attention over the whole map.
        qkv_bias: bias of the joint query, key and value projection.
    """

    def __init__(self, dim: int, heads: int, stripe_width: int | None, *, qkv_bias: bool = True) -> None:
        super().__init__()
        stripes = [(None, None)] if stripe_width is None else [(None, stripe_width), (stripe_width, None)]
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.branches = nn.ModuleList(
            StripeAttention(dim // len(stripes), heads // len(stripes), stripe) for stripe in stripes
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.qkv(x).unflatten(-1, (3, len(self.branches), -1)).unbind(4)
        mixed = [branch(*share.unbind(3)) for branch, share in zip(self.branches, shares, strict=True)]
        return self.proj(torch.cat(mixed, dim=-1) if len(mixed) > 1 else mixed[0])

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


class StripeAttention(nn.Module):
    """Attention inside stripes with a locally enhanced position encoding: queries, keys, values (B, H, W, C) -> same.

    The encoding is a depthwise convolution of the values, in every stripe by itself.

    Args:
        dim: C.
        heads: number of heads; divides C.
        stripe: rows and columns of a stripe; None for a whole side of the map.
    """

    def __init__(self, dim: int, heads: int, stripe: tuple[int | None, int | None]) -> None:
        super().__init__()
        self.heads = heads
        self.stripe = stripe
        self.position = depthwise_conv(dim, 3)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, height, width, _ = query.shape
        window = (self.stripe[0] or height, self.stripe[1] or width)
        padded = [center_pad_to_multiple(features, window) for features in (query, key, value)]
        query, key, value = (partition(features, window).flatten(0, 1) for features in padded)
        mixed = attend(*(tokens.unflatten(-1, (self.heads, -1)) for tokens in (query, key, value)))
        mixed = mixed + self.position(value.unflatten(1, window)).flatten(1, 2)
        size = (padded[0].shape[1], padded[0].shape[2])
        return center_crop(merge(mixed.unflatten(0, (batch, -1)), window, size), (height, width))
