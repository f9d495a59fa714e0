"""A smaller picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ommatid.data.degrade.step import eight_bit
from ommatid.ops.bicubic import REACH, shrink_bicubic


@dataclass(frozen=True)
class Bicubic:
    """MATLAB's antialiased bicubic by a whole factor, rounded to 8 bits: how super-resolution benchmarks are made."""

    scale: int
    grid: ClassVar[int] = 1

    @property
    def reach(self) -> int:
        return REACH * self.scale

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        return eight_bit(shrink_bicubic(picture, self.scale))

    def __str__(self) -> str:
        return f"bicubic x{self.scale}"
