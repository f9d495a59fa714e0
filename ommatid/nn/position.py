"""Where a token is: relative position biases, and absolute tables that follow the map's size."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv, depthwise_conv3d
from ommatid.ops.resize import Interpolation, resample


class RelativePositionBias(nn.Module):
    """A learned bias per head for every offset between two tokens of a window; () -> (heads, N, N), N = rows * columns.

    Entry (query - key + window - 1) of a table over offsets, row-major, shaped ((2 rows - 1)(2 columns - 1), heads).
    From Swin Transformer (arXiv 2103.14030).

    Args:
        window: rows and columns.
        heads: number of heads.
        keys: rows and columns of the keys, where they are not those of the window: () -> (heads, N, M). Offsets are
            counted from the corners of both.
    """

    def __init__(self, window: tuple[int, int], heads: int, *, keys: tuple[int, int] | None = None) -> None:
        super().__init__()
        down, across = (side + other - 1 for side, other in zip(window, keys or window, strict=True))
        self.index: Tensor
        self.table = nn.Parameter(torch.zeros(down * across, heads))
        self.register_buffer("index", relative_index(window, keys), persistent=False)
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self) -> Tensor:
        return of_every_pair(self.table, self.index)


class ClassTokenPositionBias(nn.Module):
    """A `RelativePositionBias` for a grid of patches behind a class token; () -> (heads, 1 + N, 1 + N).

    The last three entries of its table are for the class token's view of patches, theirs of it, and its own of itself.
    From BEiT (arXiv 2106.08254). Arguments as in `RelativePositionBias`.
    """

    def __init__(self, grid: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.index: Tensor
        offsets = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        index = F.pad(relative_index(grid), (1, 0, 1, 0), value=offsets)
        index[:, 0] = offsets + 1
        index[0, 0] = offsets + 2
        self.table = nn.Parameter(torch.zeros(offsets + 3, heads))
        self.register_buffer("index", index, persistent=False)

    def forward(self) -> Tensor:
        return of_every_pair(self.table, self.index)


class GeneratedPositionBias(nn.Module):
    """A bias per head that a small network computes from the offset between two tokens; () -> (heads, N, N).

    Unlike a table it can be asked about offsets it was not trained on. `deploy()` computes it once and for all.
    `log_spaced_bias` and `dynamic_bias` are the published forms.

    Args:
        window: rows and columns of the window, N tokens together.
        offsets: (L, 2), the network's input for each of the L = (2 rows - 1)(2 columns - 1) offsets, row-major.
        network: (L, 2) -> (L, heads).
    """

    def __init__(self, window: tuple[int, int], offsets: Tensor, network: nn.Module) -> None:
        super().__init__()
        self.offsets: Tensor
        self.index: Tensor
        self.network = network
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("index", relative_index(window), persistent=False)
        self.constant: Tensor | None
        self.register_buffer("constant", None, persistent=False)

    def forward(self) -> Tensor:
        return of_every_pair(self.network(self.offsets), self.index) if self.constant is None else self.constant

    def deploy_(self) -> None:
        self.constant = self()


def log_spaced_bias(
    window: tuple[int, int],
    heads: int,
    *,
    trained_window: tuple[int, int] | None = None,
    most: float | None = 16,
) -> GeneratedPositionBias:
    """The bias of Swin Transformer V2 (arXiv 2111.09883): two layers on log-spaced offsets, between 0 and 16.

    Args:
        window: rows and columns.
        heads: number of heads.
        trained_window: the window whose offsets span the network's range; `window` itself where None.
        most: the upper bound of a sigmoid behind the layers; None for no sigmoid, and no bounds.
    """
    farthest = torch.tensor([max(side - 1, 1) for side in trained_window or window])
    scaled = 8 * relative_offsets(window) / farthest
    log_spaced = scaled.sign() * torch.log2(scaled.abs() + 1) / math.log2(8)
    bounded = [] if most is None else [ScaledSigmoid(most)]
    network = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False), *bounded)
    return GeneratedPositionBias(window, log_spaced, network)


class ScaledSigmoid(nn.Module):
    """A sigmoid between 0 and `scale`."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.sigmoid()


def dynamic_bias(window: tuple[int, int], heads: int, dim: int) -> GeneratedPositionBias:
    """The dynamic position bias of CrossFormer (arXiv 2108.00154): four layers of width `dim` on offsets in tokens."""

    def unit(out_dim: int) -> list[nn.Module]:
        return [nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, out_dim)]

    network = nn.Sequential(nn.Linear(2, dim), *unit(dim), *unit(dim), *unit(heads))
    return GeneratedPositionBias(window, relative_offsets(window), network)


def relative_offsets(window: tuple[int, int]) -> Tensor:
    """(L, 2): the (row, column) offset that each row of a relative position table stands for."""
    rows, columns = (torch.arange(1.0 - side, side) for side in window)
    return torch.cartesian_prod(rows, columns)


class DistanceBias(nn.Module):
    """A learned bias per head for every distance (rows apart, columns apart) in a window; () -> (heads, N, N).

    Entry |row distance| * columns + |column distance| of a table (heads, rows * columns). LeViT (arXiv 2104.01136).
    """

    def __init__(self, window: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.index: Tensor
        self.table = nn.Parameter(torch.zeros(heads, window[0] * window[1]))
        self.register_buffer("index", distance_index(window), persistent=False)

    def forward(self) -> Tensor:
        return self.table[:, self.index.flatten()].view(-1, *self.index.shape)


def distance_index(window: tuple[int, int]) -> Tensor:
    """(N, N) integers: which entry of a distance table belongs to each (query, key) pair of a window."""
    rows, columns = window
    y = torch.arange(rows).repeat_interleave(columns)
    x = torch.arange(columns).repeat(rows)
    return (y[:, None] - y[None, :]).abs() * columns + (x[:, None] - x[None, :]).abs()


def relative_index(window: tuple[int, int], keys: tuple[int, int] | None = None) -> Tensor:
    """(N, M) integers: which row of a relative position table belongs to each (query, key) pair of a window.

    Keys lie in a window of the same size unless `keys` says another.
    """
    offsets = [
        torch.arange(side)[:, None] - torch.arange(other)[None, :] + other - 1
        for side, other in zip(window, keys or window, strict=True)
    ]
    (down, across), columns = offsets, window[1] + (keys or window)[1] - 1
    return (down[:, None, :, None] * columns + across[None, :, None, :]).flatten(2).flatten(0, 1)


def of_every_pair(table: Tensor, index: Tensor) -> Tensor:
    """(L, heads) by offset -> (heads, N, N) by query and key; index from `relative_index`."""
    return table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1).contiguous()


class AbsolutePosition(nn.Module):
    """Adds a learned table of positions to a map, resampled where the map is of another size: (B, H, W, C) -> the same.

    Args:
        grid: rows and columns of the table.
        dim: C.
        mode, antialias: of the resampling.
    """

    def __init__(
        self, grid: tuple[int, int], dim: int, *, mode: Interpolation = "bicubic", antialias: bool = True
    ) -> None:
        super().__init__()
        self.mode: Interpolation = mode
        self.antialias = antialias
        self.table = nn.Parameter(torch.zeros(1, *grid, dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        size = (features.shape[1], features.shape[2])
        return features + resample_positions(self.table, size, mode=self.mode, antialias=self.antialias)


class ConvPosition(nn.Module):
    """Conditional position encoding: x plus a 3x3 depthwise convolution of x; (B, H, W, C) -> (B, H, W, C).

    From CPVT (arXiv 2102.10882). `deploy()` folds the addition into the convolution. Cost: 9 H W C multiply-adds.

    Args:
        dim: C.
        axes: 3 for videos (B, T, H, W, C), with a 3x3x3 convolution.
    """

    def __init__(self, dim: int, *, axes: Literal[2, 3] = 2) -> None:
        super().__init__()
        self.conv = depthwise_conv(dim, 3) if axes == 2 else depthwise_conv3d(dim, 3)
        self.folded = False

    def forward(self, features: Tensor) -> Tensor:
        encoding = self.conv(features)
        return encoding if self.folded else features + encoding

    def deploy_(self) -> None:
        if not self.folded:
            centers: tuple[slice | int, ...] = (slice(None), 0, *(1 for _ in self.conv.kernel_size))
            self.conv.weight[centers] += 1
            self.folded = True


def resample_positions(
    table: Tensor, size: tuple[int, int], *, mode: Interpolation = "bicubic", antialias: bool = True
) -> Tensor:
    """A table of absolute positions (1, h, w, C) for a map of another size."""
    return resample(table, size, mode=mode, antialias=antialias)


def positions_on_grid(table: Tensor, grid: tuple[int, int], *, antialias: bool = True) -> Tensor:
    """Gives a table stored as a sequence its two axes: (1, N, C) -> (1, rows, columns, C).

    One that belongs to a square grid of another size is resampled; any other is returned as it is.
    """
    tokens = table.shape[1]
    if tokens == grid[0] * grid[1]:
        return table.unflatten(1, grid)
    side = round(tokens**0.5)
    if side * side != tokens:
        return table
    return resample_positions(table.unflatten(1, (side, side)), grid, antialias=antialias)
