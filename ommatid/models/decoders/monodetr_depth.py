"""How far away what is at each cell is: the depth predictor of MonoDETR (arXiv 2203.13310)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.feedforward import MLP
from ommatid.nn.norm import GroupNorm
from ommatid.nn.query_attention import QueryAttention
from ommatid.nn.sine_position import sine_position
from ommatid.ops.resize import resample

GROUPS = 32
HEADS, MLP_DIM = 8, 256
"""Of the one layer in which cells look at one another: fixed in the published code."""


class Depth(NamedTuple):
    """logits (B, h, w, bins + 1), the last bin for "nothing"; metres (B, h, w), expected; embedding (B, h w, C)."""

    logits: Tensor
    metres: Tensor
    embedding: Tensor


class DepthPredictor(nn.Module):
    """Maps (B, H_i, W_i, C) of strides 8, 16 and 32 -> the depth at each cell of the middle one.

    Args:
        dim: C.
        bins: number of depths that are told apart.
        least, most: in metres.
        dropout: in training.
    """

    def __init__(self, dim: int, bins: int, least: float, most: float, *, dropout: float) -> None:
        super().__init__()
        self.most = most
        self.finer = grouped_conv(dim, 3, stride=2)
        self.middle = grouped_conv(dim, 1)
        self.coarser = grouped_conv(dim, 1)
        self.head = nn.Sequential(*(grouped_conv(dim, 3, act=nn.ReLU()) for _ in range(2)))
        self.classifier = Conv2d(dim, bins + 1, 1)
        self.bins = nn.Parameter(bin_depths(bins, least, most), requires_grad=False)
        self.layer = CellLayer(dim, dropout=dropout)
        self.places = nn.Parameter(torch.randn(int(most) + 1, dim))

    def forward(self, maps: Sequence[Tensor]) -> Depth:
        fine, middle, coarse = maps
        size = (middle.shape[1], middle.shape[2])
        coarse = self.coarser(resample(coarse, size, mode="bilinear"))
        x = self.head((self.finer(fine) + self.middle(middle) + coarse) / 3)
        logits = self.classifier(x)
        metres = (logits.float().softmax(-1) * self.bins).sum(-1)
        wave = sine_position(*size, x.shape[-1], x.device).flatten(0, 1).to(x.dtype)
        cells = self.layer(x.flatten(1, 2), wave)
        return Depth(logits, metres, cells + self.place(metres).flatten(1, 2).to(cells.dtype))

    def place(self, metres: Tensor) -> Tensor:
        """(B, h, w) -> (B, h, w, C): the table of whole metres, read in between."""
        within = metres.clamp(0, self.most)
        below = within.floor()
        share, row = (within - below)[..., None], below.long()
        return self.places[row] * (1 - share) + self.places[(row + 1).clamp(max=len(self.places) - 1)] * share


class CellLayer(nn.Module):
    """Cells that look at one another, then think each by itself: (B, N, C) -> (B, N, C); post-norm."""

    def __init__(self, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.attention = QueryAttention(dim, HEADS)
        self.mlp = MLP(dim, MLP_DIM, act=nn.Sequential(nn.ReLU(), nn.Dropout(dropout)))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, wave: Tensor) -> Tensor:
        x = self.norms[0](x + self.dropout(self.attention(x + wave, x + wave, x)))
        return self.norms[1](x + self.dropout(self.mlp(x)))


def grouped_conv(
    dim: int, kernel_size: int, *, stride: int = 1, in_dim: int | None = None, act: nn.Module | None = None
) -> ConvNorm:
    """Convolution and group norm: (B, H, W, C_in) -> (B, H', W', C)."""
    norm = GroupNorm(GROUPS, dim)
    return ConvNorm(in_dim or dim, dim, kernel_size, stride=stride, bias=True, act=act, norm=norm)


def bin_width(bins: int, least: float, most: float) -> float:
    """By how much each bin is wider than the one before it."""
    return 2 * (most - least) / (bins * (bins + 1))


def bin_depths(bins: int, least: float, most: float) -> Tensor:
    """(bins + 1,): the middle of each bin in metres, wider and wider ones, and the largest depth."""
    width, number = bin_width(bins, least, most), torch.arange(bins)
    return torch.cat([(number + 0.5) ** 2 * width / 2 - width / 8 + least, torch.tensor([most])])


def bin_of(metres: Tensor, bins: int, least: float, most: float) -> Tensor:
    """The bin of each depth; `bins` for those that are in none."""
    number = (-0.5 + 0.5 * (1 + 8 * (metres - least) / bin_width(bins, least, most)).sqrt()).floor()
    known = number.isfinite() & (number >= 0) & (number <= bins)
    return torch.where(known, number, bins).long()
