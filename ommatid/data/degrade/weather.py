"""What the air puts before the camera: rain and haze."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.data.degrade.blur import blurred, line_kernel
from ommatid.data.degrade.step import Range, Strength, eight_bit

DROPS = 0.02
"""Streaks per pixel in the heaviest rain."""
STREAK = Range(8, 24)
"""Length in pixels."""
SLANT = Range(-25, 25)
"""Degrees from the vertical: the wind's, the same for all drops of a picture."""

AIRLIGHT = Range(0.7, 1.0)
"""Brightness of the haze itself."""
RELIEF = 4
"""Random distances along each axis, between which the scene's depth changes smoothly."""


@dataclass(frozen=True)
class Rain(Strength):
    """Bright streaks added to the picture (the model of arXiv 1609.07769), as many as `strength` says."""

    word = "rain"
    allowed = Range(0, 1)
    usual = Range(0.2, 0.8)
    meaning = "from 0, dry, to 1, heavy"

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        share = DROPS * self.strength.draw(generator)
        length, slant = STREAK.draw(generator), math.radians(SLANT.draw(generator))
        chance, brightness = torch.rand(2, *picture.shape[-2:], generator=generator)
        drops = torch.where(chance < share, brightness, 0)
        # A drop's light is spread over its streak; a third of the length keeps a single streak visible.
        streaks = blurred(drops[None], line_kernel(length, math.pi / 2 + slant)) * (length / 3)
        return eight_bit(picture + streaks)


@dataclass(frozen=True)
class Haze(Strength):
    """Atmospheric scattering, J t + A (1 - t) with t = (1 - strength)^depth (the model of arXiv 1712.04143).

    Depth, of which a photograph says nothing, is a random smooth relief between 0.5 and 1.5; A is a random grey.
    """

    word = "haze"
    allowed = Range(0, 0.99)
    usual = Range(0.3, 0.8)
    meaning = "share of the light that is the haze's own, at depth 1"

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        clear = 1 - self.strength.draw(generator)
        airlight = AIRLIGHT.draw(generator)
        relief = torch.rand(1, 1, RELIEF, RELIEF, generator=generator) + 0.5
        depth = F.interpolate(relief, size=picture.shape[-2:], mode="bilinear", align_corners=True)[0]
        transmission = clear**depth
        return eight_bit(picture * transmission + airlight * (1 - transmission))
