"""Grain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ommatid.data.degrade.step import Range, Strength


@dataclass(frozen=True)
class Noise(Strength):
    """White Gaussian noise, its sigma on the scale of 0 to 255.

    As in the denoising literature (DnCNN, arXiv 1608.03981) the answer is neither rounded nor clipped to 0 to 1.
    """

    word = "noise"
    allowed = Range(0, 255)
    meaning = "sigma, of 255"

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        sigma = self.strength.draw(generator) / 255
        return picture + sigma * torch.randn(picture.shape, generator=generator)
