"""Positions as waves in random directions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class RandomFourierPosition(nn.Module):
    """Random Fourier features of the cells of a map: () -> (rows, columns, C), first the sines.

    "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains" (arXiv 2006.10739), as
    Segment Anything (arXiv 2304.02643) has it. Cells are at their centres, both axes from -1 to 1. The waves are drawn
    once and saved with the weights.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.waves: Tensor
        self.register_buffer("waves", torch.randn(2, dim // 2))

    def forward(self, rows: int, columns: int) -> Tensor:
        down, right = (2 * (torch.arange(side, device=self.waves.device) + 0.5) / side - 1 for side in (rows, columns))
        of_column, of_row = (2 * math.pi * self.waves).unbind()
        angles = right[:, None] * of_column + (down[:, None] * of_row)[:, None]
        return torch.cat([angles.sin(), angles.cos()], -1)
