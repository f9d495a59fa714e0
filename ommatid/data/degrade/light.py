"""Too little light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ommatid.data.degrade.step import Range, eight_bit

GAMMA = 2.2
"""From stored values to light: value^GAMMA, near enough to sRGB's curve."""


@dataclass(frozen=True)
class LowLight:
    """An exposure with `strength` of the light: dark, and of fewer tones, because it is rounded to 8 bits."""

    strength: Range
    allowed: ClassVar = Range(0.01, 1)
    usual: ClassVar = None
    meaning: ClassVar = "share of the light that is left"
    scale: ClassVar = 1
    reach: ClassVar = 0

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        exposure = self.strength.draw(generator)
        return eight_bit(picture.clamp(min=0) * exposure ** (1 / GAMMA))

    def __str__(self) -> str:
        return f"lowlight {self.strength}"
