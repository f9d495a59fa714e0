"""Too little light."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ommatid.data.degrade.step import Range, Strength, eight_bit

GAMMA = 2.2
"""From stored values to light: value^GAMMA, near enough to sRGB's curve."""


@dataclass(frozen=True)
class LowLight(Strength):
    """An exposure with `strength` of the light: dark, and of fewer tones, because it is rounded to 8 bits."""

    word = "lowlight"
    allowed = Range(0.01, 1)
    meaning = "share of the light that is left"

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        exposure = self.strength.draw(generator)
        return eight_bit(picture.clamp(min=0) * exposure ** (1 / GAMMA))
