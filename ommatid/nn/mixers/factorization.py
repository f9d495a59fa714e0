"""Factorization attention: a few keys, each a summary of the whole map, in place of all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.conv import Conv2d, depthwise_conv
from ommatid.nn.deploy import scale_output_
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.position import ConvPosition
from ommatid.ops.attention import attend
from ommatid.ops.refusal import require_map

WINDOW = 7


class FactorizationAttention(nn.Module):
    """Attention to a coarse copy of the map and to the summaries of (dilated) windows: (B, H, W, C) -> (B, H, W, C).

    FaViT (arXiv 2312.08614). Channels are split: 1/8 attend, with one head, to the map reduced by s; the rest to 49
    keys per head that summarise all windows of 7 x 7, half of them (all with s = 1) with windows of neighbours, half
    with windows dilated by s. Sides must be at least s.
    Cost: 3 H W C^2 + (H W / s)^2 C / 4 + 98 H W C multiply-adds, about.

    Args:
        dim: C, a multiple of 16 (of 8 with s = 1).
        heads: of the windows' parts; divides the width of each.
        reduction: s.
        qkv_bias: bias of the projections to queries, keys and values.
    """

    def __init__(self, dim: int, heads: int, reduction: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.reduction = reduction
        self.global_dim, local_dims = channel_split(dim, reduction)
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.coarse = CoarseAttention(self.global_dim, reduction, qkv_bias=qkv_bias)
        self.source = nn.Sequential(depthwise_conv(sum(local_dims), 3), Conv2d(sum(local_dims), sum(local_dims), 1))
        self.summaries = nn.ModuleList(
            WindowSummaryAttention(width, heads, dilation=dilation, qkv_bias=qkv_bias)
            for width, dilation in zip(local_dims, (1, reduction), strict=False)
        )
        self.local_dims = local_dims
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        require_map(min(x.shape[1:3]) >= self.reduction, x, f"at least {self.reduction} a side")
        global_dim = self.global_dim
        global_query, local_query = self.query(x.flatten(1, 2)).tensor_split((global_dim,), dim=-1)
        # The reference splits queries inside each head, but keys and values across the heads.
        queries = local_query.unflatten(-1, (self.heads, -1)).split([n // self.heads for n in self.local_dims], -1)
        sources = self.source(x[..., global_dim:]).split(self.local_dims, -1)
        mixed = [self.coarse(global_query, x[..., :global_dim])]
        mixed += [part(query, src) for part, query, src in zip(self.summaries, queries, sources, strict=True)]
        return self.proj(torch.cat(mixed, dim=-1)).view(x.shape)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


class CoarseAttention(nn.Module):
    """Queries (B, N, C) attend, with one head, to a map (B, H, W, C) reduced by `reduction`: -> (B, N, C)."""

    def __init__(self, dim: int, reduction: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.reduction = PatchEmbed(dim, dim, reduction, norm=nn.LayerNorm(dim))
        self.key_value = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.position = ConvPosition(dim)

    def forward(self, query: Tensor, features: Tensor) -> Tensor:
        key, value = self.key_value(self.reduction(features)).chunk(2, dim=-1)
        value = self.position(value)
        return attend(query.unsqueeze(2), key.flatten(1, 2).unsqueeze(2), value.flatten(1, 2).unsqueeze(2))


class WindowSummaryAttention(nn.Module):
    """Queries (B, N, heads, C / heads) attend to 49 summaries of the windows of a map (B, H, W, C): -> (B, N, C)."""

    def __init__(self, dim: int, heads: int, *, dilation: int, qkv_bias: bool) -> None:
        super().__init__()
        head_dim = dim // heads
        self.heads = heads
        self.dilation = dilation
        self.summary = nn.Linear(head_dim, head_dim, bias=qkv_bias)
        self.key_value = nn.Linear(head_dim, 2 * head_dim, bias=qkv_bias)
        self.position = ConvPosition(dim)

    def forward(self, query: Tensor, source: Tensor) -> Tensor:
        summaries = self.summary(averaged_windows(source, self.heads, self.dilation))
        key, value = self.key_value(summaries).chunk(2, dim=-1)
        value = self.position(value.flatten(2).unflatten(1, (WINDOW, WINDOW))).flatten(1, 2)
        return attend(query, key, value.unflatten(-1, (self.heads, -1)))


def averaged_windows(source: Tensor, heads: int, dilation: int) -> Tensor:
    """The mean of all (dilated) 7 x 7 windows that tile a map, as FaViT takes it: (B, H, W, C) -> (B, 49, heads, d).

    At each position the values of all windows, each d channels long, lie one after another, and every run of as many
    values as there are windows is averaged. With more than one window that mixes channels.
    """
    height, width = source.shape[1:3]
    rows, columns = (tiled_positions(side, dilation).to(source.device) for side in (height, width))
    windows = source.index_select(1, rows).index_select(2, columns)
    windows = windows.unflatten(3, (heads, -1)).unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))
    by_position = windows.permute(0, 2, 4, 5, 1, 3, 6)
    head_dim = source.shape[-1] // heads
    return by_position.flatten(4).unflatten(-1, (head_dim, -1)).flatten(1, 2).mean(-1)


def tiled_positions(side: int, dilation: int) -> Tensor:
    """Positions along an axis of the tokens of each window; those past the end are reflected at it.

    A map too short for the last window is reflected at both ends, as often as it takes; the paper's code refuses it.
    """
    span = dilation * (WINDOW - 1) + 1
    starts = torch.arange(0, side, span)
    positions = (starts[:, None] + dilation * torch.arange(WINDOW)).flatten()
    # In a tensor, which ONNX divides by where the side is not known before.
    there_and_back = torch.scalar_tensor(max(2 * (side - 1), 1), dtype=positions.dtype)
    return side - 1 - (positions % there_and_back - (side - 1)).abs()


def channel_split(dim: int, reduction: int) -> tuple[int, tuple[int, ...]]:
    """Channels of the global part, and of each local part: 2 : 7 : 7, or 1 : 7 without reduction."""
    if reduction == 1:
        return dim // 8, (7 * dim // 8,)
    return dim // 8, (7 * dim // 16, 7 * dim // 16)
