"""Varying window attention: windows of a fixed number look at surroundings that are larger than they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.ops.attention import attend
from ommatid.ops.windows import merge, pad_to_multiple, partition

GRID = 8
"""Windows along each side of a map, whatever its size."""

SMALLEST = 2
"""Side of a window, in cells."""


class VaryingWindowAttention(nn.Module):
    """Each of 8 x 8 windows attends to a context `ratio` times as wide: (B, H, W, C) -> (B, H, W, C).

    VWFormer (arXiv 2404.16573). A convolution divides the channels by ratio^2 beforehand, and every square of
    ratio x ratio cells of a context becomes one key: a context of any width costs as much as the window itself. What
    lies outside of the map is copied from inside it. Maps not made of 8 x 8 windows of at least 2 x 2 cells each are
    zero-padded at the bottom and right.
    Cost: 5 H W C^2 + H^2 W^2 C / 32 multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        ratio: of the sides of a context and a window; 1 is plain window attention.
        proj: (B, H, W, C) -> (B, H, W, C), what the heads' answers go through; a linear layer where None.
    """

    def __init__(self, dim: int, heads: int, ratio: int, *, proj: nn.Module | None = None) -> None:
        super().__init__()
        self.heads, self.ratio = heads, ratio
        narrow = max(dim // ratio**2, 1)
        self.narrow = ConvNorm(dim, narrow, ratio, padding=0, act=nn.ReLU())
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(narrow * ratio**2, 2 * dim)
        self.proj = proj or nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        whole = pad_to_multiple(x, (multiple(height), multiple(width)))
        size = (whole.shape[1], whole.shape[2])
        window = (size[0] // GRID, size[1] // GRID)
        queries = partition(self.query(whole), window).flatten(0, 1).unflatten(-1, (self.heads, -1))
        keys = self.key_value(self.contexts(whole)).unflatten(-1, (2, self.heads, -1))
        mixed = attend(queries, *keys.unbind(2))
        return self.proj(merge(mixed.unflatten(0, (-1, GRID**2)), window, size)[:, :height, :width])

    def contexts(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B * 64, H W / 64, C): the keys' contents, for each window as many as it has queries."""
        ratio, before = self.ratio, max(self.ratio // 2 - 1, 0)
        after = ratio - 1 - before
        narrowed = self.narrow(F.pad(x, (0, 0, before, after, before, after)))
        rows, columns = (context_places(x.shape[axis] // GRID, ratio, x.device) for axis in (1, 2))
        around = narrowed.index_select(1, rows).index_select(2, columns)
        squares = around.view(x.shape[0], GRID, -1, ratio, GRID, x.shape[2] // GRID, ratio, narrowed.shape[3])
        return squares.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5).flatten(3, 4).flatten(0, 2)


def multiple(side: int) -> int:
    """What the side of a map is padded to a multiple of."""
    return GRID if side > GRID else GRID * SMALLEST


def context_places(window: int, ratio: int, device: torch.device) -> Tensor:
    """(8 * ratio * window): the cell of a map's side at each place of the contexts of its windows, one after another.

    The map is continued to the left by cells T to ratio * window, to the right by as many that end T before its end;
    T = (ratio + 1) * window / 2, rounded down.
    """
    reach, start, side = ratio * window, (ratio + 1) * window // 2, GRID * window
    places = torch.arange(side, device=device)
    continued = torch.cat([places[start:reach], places, places[side - reach : side - start]])
    return continued.unfold(0, reach, window)[:GRID].flatten()
