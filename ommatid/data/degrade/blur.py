"""Pictures that were not sharp: the camera moved, or was focused elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.data.degrade.step import Range, Strength, eight_bit

POINTS_PER_PIXEL = 8
"""How finely the path of a moving camera is followed."""

DIRECT = 31
"""Side of the largest kernel that is applied pixel by pixel; larger ones are faster as a product of spectra."""


@dataclass(frozen=True)
class Motion(Strength):
    """A straight, even movement of the camera, in a random direction, over `strength` pixels."""

    word = "motion"
    allowed = Range(1, 100)
    meaning = "length in pixels"

    @property
    def reach(self) -> int:
        return math.ceil(self.strength.high / 2) + 1

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        length = self.strength.draw(generator)
        angle = math.pi * torch.rand((), generator=generator).item()
        return eight_bit(blurred(picture, line_kernel(length, angle)))


@dataclass(frozen=True)
class Defocus(Strength):
    """A lens out of focus: each point becomes an even disk of `strength` pixels radius."""

    word = "defocus"
    allowed = Range(0, 50)
    meaning = "radius in pixels"

    @property
    def reach(self) -> int:
        return math.ceil(self.strength.high)

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        return eight_bit(blurred(picture, disk_kernel(self.strength.draw(generator))))


def blurred(picture: Tensor, kernel: Tensor) -> Tensor:
    """(C, H, W) convolved with a (K, K) kernel, K odd; beyond its border the picture goes on as its edge."""
    radius = len(kernel) // 2
    padded = F.pad(picture, (radius, radius, radius, radius), mode="replicate")
    if len(kernel) <= DIRECT:
        return F.conv2d(padded[:, None], kernel[None, None])[:, 0]
    size = (padded.shape[1], padded.shape[2])
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernel.flip(0, 1), size)
    # What went around the border lies in the first rows and columns.
    return torch.fft.irfft2(spectrum, size)[:, 2 * radius :, 2 * radius :]


def line_kernel(length: float, angle: float) -> Tensor:
    """(K, K), sum 1: a line through the centre, `length` pixels with both its ends, `angle` from the horizontal."""
    radius = math.ceil((length - 1) / 2) + 1
    path = torch.linspace(-(length - 1) / 2, (length - 1) / 2, POINTS_PER_PIXEL * math.ceil(length) + 1)
    grid = torch.arange(-radius, radius + 1)
    rows = (1 - (grid[:, None] + path * math.sin(angle)).abs()).clamp(min=0)
    columns = (1 - (grid[:, None] - path * math.cos(angle)).abs()).clamp(min=0)
    return rows @ columns.T / len(path)


def disk_kernel(radius: float) -> Tensor:
    """(K, K), sum 1: a disk whose edge, a pixel wide, is smooth."""
    reach = math.ceil(radius)
    grid = torch.arange(-reach, reach + 1, dtype=torch.float32)
    disk = (radius + 0.5 - torch.hypot(grid[:, None], grid)).clamp(0, 1)
    return disk / disk.sum()
