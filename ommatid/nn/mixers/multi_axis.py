"""Multi-axis mixing: half of the channels mix on grids that span the map, the other half in windows."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from ommatid.nn.mixers.gated_token_mlp import GatedTokenMLP
from ommatid.nn.mixers.token_linear import TokenLinear
from ommatid.nn.mixers.windowed import Gridded, Windowed
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import Residual

GELU = partial(nn.GELU, approximate="tanh")
Size = tuple[int, int]


class MultiAxis(nn.Module):
    """An MLP whose hidden channels mix on two axes, half of them each: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: C.
        hidden: width of both halves together; even.
        grid: mixes the first half, as a `Gridded` does: (B, H, W, hidden / 2) -> the same.
        window: mixes the second half, as a `Windowed` does.
        bias: of the linear layers before and behind the two.
    """

    def __init__(self, dim: int, hidden: int, grid: nn.Module, window: nn.Module, *, bias: bool = True) -> None:
        super().__init__()
        self.widths = (hidden // 2, hidden // 2)
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.act = GELU()
        self.grid = grid
        self.window = window
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        on_grid, in_window = self.act(self.fc1(x)).split(self.widths, dim=-1)
        return self.fc2(torch.cat([self.grid(on_grid), self.window(in_window)], dim=-1))


def multi_axis_gated_mlp(
    dim: int,
    window: Size,
    grid: Size,
    *,
    input_factor: int = 2,
    window_factor: int = 2,
    grid_factor: int = 2,
    bias: bool = True,
) -> MultiAxis:
    """The multi-axis gated MLP of MAXIM (arXiv 2201.02973): (B, H, W, C) -> (B, H, W, C).

    Both halves go through a gMLP with a skip. Linear in the map's size: the grid has as many cells on any map.
    Cost: H W (2 i C^2 + 0.375 i^2 (g + w) C^2 + i C (g G + w W) / 4) multiply-adds for factors i, g and w, G cells of
    the grid and W of the window.

    Args:
        dim: C.
        window, grid: rows and columns.
        input_factor: hidden width of the whole, over C.
        window_factor, grid_factor: hidden width of the two gMLPs, over the width of each.
        bias: of all linear layers.
    """
    hidden = dim * input_factor
    half = hidden // 2

    def gated(size: Size, factor: int) -> GatedTokenMLP:
        return GatedTokenMLP(half, math.prod(size), half * factor, act=GELU(), bias=bias)

    return MultiAxis(
        dim,
        hidden,
        Residual(half, Gridded(gated(grid, grid_factor), grid), norm=LayerNorm),
        Residual(half, Windowed(gated(window, window_factor), window), norm=LayerNorm),
        bias=bias,
    )


def multi_axis_linear(dim: int, window: Size, grid: Size, *, bias: bool = True) -> MultiAxis:
    """What MAXIM (arXiv 2201.02973) computes gates with: (B, H, W, C) -> (B, H, W, C).

    Both halves of twice the channels are mixed by one matrix along the tokens.
    Cost: H W (4 C^2 + C G + C W) multiply-adds for G cells of the grid and W of the window.

    Args:
        dim: C.
        window, grid: rows and columns.
        bias: of all linear layers.
    """
    on_grid, in_window = (TokenLinear(math.prod(size), bias=bias) for size in (grid, window))
    return MultiAxis(dim, 2 * dim, Gridded(on_grid, grid), Windowed(in_window, window), bias=bias)
