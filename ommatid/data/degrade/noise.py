"""Grain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ommatid.data.degrade.step import Range


@dataclass(frozen=True)
class Noise:
    """White Gaussian noise, its sigma on the scale of 0 to 255.

    As in the denoising literature (DnCNN, arXiv 1608.03981) the answer is neither rounded nor clipped to 0 to 1.
    """

    strength: Range
    allowed: ClassVar = Range(0, 255)
    usual: ClassVar = None
    meaning: ClassVar = "sigma, of 255"
    scale: ClassVar = 1
    reach: ClassVar = 0

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        sigma = self.strength.draw(generator) / 255
        return picture + sigma * torch.randn(picture.shape, generator=generator)

    def __str__(self) -> str:
        return f"noise {self.strength}"
