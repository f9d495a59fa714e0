"""Filters that a small network makes from positions: as long as need be, with as many parameters as it takes.

The implicit filters of Hyena, "Hyena Hierarchy: Towards Larger Convolutional Language Models" (arXiv 2302.10866).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def position_features(length: int, width: int) -> Tensor:
    """(length, width): the relative position t in [0, 1], then cosines and then minus sines of as many frequencies.

    Args:
        width: odd, at least 3.
    """
    waves = (width - 1) // 2
    relative = torch.linspace(0, 1, length)[:, None]
    angles = 2 * math.pi * torch.arange(length)[:, None] / length * torch.linspace(1e-4, waves - 1, waves)
    return torch.cat([relative, angles.cos(), -angles.sin()], dim=-1)


def decay_rates(width: int) -> Tensor:
    """(width,): minus the rates of windows that are down to 1 % at 1.5 times the whole length, ..., at 0.3 times it."""
    return torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, width)


def resampled(positions: Tensor, length: int) -> Tensor:
    """Positions (L, E) for another length, by lines from the first to the last: (length, E)."""
    if len(positions) == length:
        return positions
    return F.interpolate(positions.T[None], size=length, mode="linear", align_corners=True)[0].T


class SineMLP(nn.Module):
    """Linear layers with sines between, sin(frequency * x), computed in float32: (..., in_dim) -> (..., out_dim).

    Args:
        in_dim, hidden, out_dim: widths.
        inner_layers: layers between the first and the last; the last has no bias.
    """

    def __init__(self, in_dim: int, hidden: int, out_dim: int, inner_layers: int) -> None:
        super().__init__()
        widths = [in_dim, *[hidden] * (inner_layers + 1)]
        layers = [nn.Linear(before, after) for before, after in pairwise(widths)]
        self.layers = nn.ModuleList([*layers, nn.Linear(hidden, out_dim, bias=False)])

    def forward(self, x: Tensor, frequency: Tensor) -> Tensor:
        """`frequency` (hidden,) is that of all sines, and of other networks if they share it."""
        with torch.autocast(x.device.type, enabled=False):
            *inner, last = self.layers
            for layer in inner:
                x = torch.sin(frequency * layer(x))
            return last(x)


class ImplicitKernel(nn.Module):
    """One kernel for each channel, that fades with the distance.

    Shorter sequences have the first of the positions, longer ones as many as they need between the first and the last.

    Args:
        dim: C.
        max_length: L, tokens that positions are made for.
        position_dim: width of the positions; odd, at least 3. They are learned, from `position_features` on.
        hidden, inner_layers: of the network.
        frequency: of its sines at the start.
    """

    def __init__(
        self, dim: int, max_length: int, *, position_dim: int, hidden: int, inner_layers: int, frequency: float
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(position_features(max_length, position_dim))
        self.frequency = nn.Parameter(torch.full((hidden,), frequency))
        self.network = SineMLP(position_dim, hidden, dim, inner_layers)
        self.rates: Tensor
        self.register_buffer("rates", decay_rates(dim), persistent=False)

    def forward(self, length: int) -> Tensor:
        """(C, length)."""
        whole = max(length, len(self.positions))
        positions = resampled(self.positions, whole)[:length]
        steps = torch.linspace(0, 1, whole, device=positions.device)[:length, None]
        return (self.network(positions, self.frequency) * torch.exp(-steps * self.rates.abs())).T
