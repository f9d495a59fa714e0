"""Filters as large as a square map, made from the positions of its rows and columns, and how they fade.

The filters of "Multi-Dimensional Hyena for Spatial Inductive Bias" (arXiv 2309.13600). A filter for D channels of a
map of L x L positions is (D, L, L); [.., i, j] is for what is i rows above and j columns to the left.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.nn.implicit_filter import SineMLP, decay_rates, position_features, resampled

Window = Literal["none", "standard", "learned", "symmetric"]


class ImplicitFilter2d(nn.Module):
    """A filter (D, L, L) for any L, and what a position itself counts for, (D,).

    Args:
        surface: makes (L, L, D) from positions (L, position_dim) and the frequency of sines (hidden,).
        width: D.
        side: L, for which the positions are made; others lie between these. They are learned.
        position_dim: odd, at least 3.
        hidden: of the networks in `surface`.
    """

    def __init__(self, surface: nn.Module, width: int, side: int, *, position_dim: int, hidden: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(position_features(side, position_dim))
        self.frequency = nn.Parameter(torch.ones(hidden))
        self.surface = surface
        self.skip = nn.Parameter(torch.randn(width))

    def forward(self, side: int) -> tuple[Tensor, Tensor]:
        surface = self.surface(resampled(self.positions, side), self.frequency)
        return surface.permute(2, 0, 1), self.skip


class ProductSurface(nn.Module):
    """f(row) g(column), of networks f and g, each faded by its own window: positions (L, E) -> (L, L, D)."""

    def __init__(self, position_dim: int, hidden: int, width: int, inner_layers: int, window: Window) -> None:
        super().__init__()
        self.rows = SineMLP(position_dim, hidden, width, inner_layers)
        self.columns = SineMLP(position_dim, hidden, width, inner_layers)
        self.row_window = axis_window(width, window)
        self.column_window = axis_window(width, window)

    def forward(self, positions: Tensor, frequency: Tensor) -> Tensor:
        rows = self.row_window(self.rows(positions, frequency))
        columns = self.column_window(self.columns(positions, frequency))
        return rows[:, None] * columns


class JointSurface(nn.Module):
    """f(row, column), of one network, faded by a window: positions (L, E) -> (L, L, D)."""

    def __init__(
        self, position_dim: int, hidden: int, width: int, inner_layers: int, window: Window, *, sqrt_decay: bool
    ) -> None:
        super().__init__()
        self.network = SineMLP(2 * position_dim, hidden, width, inner_layers)
        self.window = map_window(width, window, sqrt_decay=sqrt_decay)

    def forward(self, positions: Tensor, frequency: Tensor) -> Tensor:
        side = len(positions)
        rows = positions[:, None].expand(-1, side, -1)
        pairs = torch.cat([rows, rows.transpose(0, 1)], dim=-1)
        return self.window(self.network(pairs, frequency))


class DirectFilter(nn.Module):
    """Filters that are free to learn: (count D, L, L), and (count D,) for the position itself.

    There is one more of each than is given away: the reference has it, and so do its weights.
    """

    def __init__(self, dim: int, side: int, count: int) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(count + 1, dim, side, side) / side)
        self.skip = nn.Parameter(torch.randn(count + 1, dim))

    def forward(self, side: int) -> tuple[Tensor, Tensor]:
        return self.filter[:-1].flatten(0, 1), self.skip[:-1].flatten()


class AxisWindow(nn.Module):
    """Multiplies with exp(-t rate), t from 0 to 1, and a shift added to it: (L, D) -> (L, D).

    Learned, each channel has a rate and a shift; otherwise the rates are fixed, and there is no shift.
    """

    def __init__(self, width: int, *, learned: bool) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.rand(width)) if learned else None
        self.rates: Tensor
        if learned:
            self.rates = nn.Parameter(decay_rates(width))
        else:
            self.register_buffer("rates", decay_rates(width), persistent=False)

    def forward(self, filter: Tensor) -> Tensor:
        steps = torch.linspace(0, 1, len(filter), device=filter.device)
        window = torch.exp(-steps[:, None] * self.rates.abs())
        return filter * (window if self.shift is None else window + self.shift)


class MapWindow(nn.Module):
    """Multiplies with exp(-t_row rate - t_column rate) and a shift added to it: (L, L, D) -> (L, L, D).

    Args:
        rows, columns: rates (D,), learned if they are parameters; both axes have the same where `columns` is None.
        shift: (D,); none where None.
        whole_steps: t counts positions; otherwise it goes from 0 to 1.
        sqrt_decay: takes the square root of the exponential.
    """

    def __init__(
        self,
        rows: Tensor,
        columns: Tensor | None = None,
        shift: Tensor | None = None,
        *,
        whole_steps: bool = False,
        sqrt_decay: bool = False,
    ) -> None:
        super().__init__()
        self.whole_steps = whole_steps
        self.power = 0.5 if sqrt_decay else 1.0
        self.rows: Tensor
        self.columns: Tensor | None
        self.shift: Tensor | None
        for name, value in (("rows", rows), ("columns", columns), ("shift", shift)):
            if value is None or isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value, persistent=False)

    def forward(self, filter: Tensor) -> Tensor:
        side = len(filter)
        last = side - 1 if self.whole_steps else 1
        steps = torch.linspace(0, last, side, device=filter.device)[:, None]
        columns = self.rows if self.columns is None else self.columns
        ages = (steps * self.rows.abs())[:, None] + steps * columns.abs()
        window = torch.exp(-self.power * ages)
        return filter * (window if self.shift is None else window + self.shift)


def axis_window(width: int, window: Window) -> nn.Module:
    """For one axis of a product. Raises ValueError for "symmetric", which is for both axes together."""
    if window == "symmetric":
        raise ValueError("window = 'symmetric' is not possible: allowed is none, standard or learned for products")
    return nn.Identity() if window == "none" else AxisWindow(width, learned=window == "learned")


def map_window(width: int, window: Window, *, sqrt_decay: bool = False) -> nn.Module:
    """For both axes together. Learned ones have a shift; "symmetric" has one rate a channel, and counts positions."""
    if window == "none":
        return nn.Identity()
    if window == "standard":
        return MapWindow(decay_rates(width), sqrt_decay=sqrt_decay)
    shift = nn.Parameter(torch.rand(width))
    rows = nn.Parameter(decay_rates(width))
    if window == "symmetric":
        return MapWindow(rows, shift=shift, whole_steps=True, sqrt_decay=sqrt_decay)
    return MapWindow(rows, nn.Parameter(decay_rates(width)), shift, sqrt_decay=sqrt_decay)
