"""Log-polar windows: regions around a point of fixation that grow with their distance from it.

"Metamers of the Ventral Stream" (Freeman and Simoncelli, 2011). Windows overlap and are smooth; between the first ring
and the outer radius they sum to 1 at every pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TRANSITION = 0.5
"""Share of a window's width over which it gives way to its neighbour."""


@dataclass(frozen=True, kw_only=True)
class LogPolar:
    """Where windows are. All weights are float32, on the CPU.

    Attributes:
        fixation: row and column in pixels, fractions too; an image's centre is ((H - 1) / 2, (W - 1) / 2).
        rings: N.
        inner_radius, outer_radius: in pixels, where the first ring begins and where the last is strongest.
        angles: A, windows of a ring.
    """

    fixation: tuple[float, float]
    rings: int
    inner_radius: float
    outer_radius: float
    angles: int = 1

    @property
    def log_width(self) -> float:
        """Of a ring, in logarithms of the radius."""
        return (math.log(self.outer_radius) - math.log(self.inner_radius)) / self.rings

    def centre(self, ring: int) -> float:
        """Radius in pixels at which a ring, from 0, is strongest."""
        return self.inner_radius * math.exp(self.log_width * (ring + 1))

    def ring_weights(self, size: tuple[int, int]) -> Tensor:
        """(N, H, W): how much every pixel is of each ring."""
        distance, _ = self._polar(size)
        rings = torch.arange(self.rings, dtype=torch.float64)[:, None, None]
        inward = distance.clamp(min=1e-6).log() - math.log(self.inner_radius)
        return profile(inward / self.log_width - (rings + 1)).float()

    def sector_weights(self, size: tuple[int, int]) -> Tensor:
        """(A, H, W): how much every pixel is of each angle, counter-clockwise from the right."""
        _, angle = self._polar(size)
        width = 2 * math.pi / self.angles
        middles = (torch.arange(self.angles, dtype=torch.float64) + (1 - TRANSITION) / 2) * width
        apart = (angle - middles[:, None, None] + math.pi) % (2 * math.pi) - math.pi
        return profile(apart / width).float()

    def windows(self, size: tuple[int, int]) -> Tensor:
        """(N A, H, W): every ring's windows one after another."""
        rings, sectors = self.ring_weights(size), self.sector_weights(size)
        return (rings[:, None] * sectors).flatten(0, 1)

    def fovea(self, size: tuple[int, int]) -> Tensor:
        """(H, W): how much every pixel is of what lies inside the first ring."""
        distance, _ = self._polar(size)
        return torch.where(distance < self.centre(0), 1 - self.ring_weights(size).sum(0), 0)

    def _polar(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(H, W) each, float64: distance from the fixation, and angle."""
        down, right = (
            torch.arange(side, dtype=torch.float64) - place for side, place in zip(size, self.fixation, strict=True)
        )
        rows, columns = torch.meshgrid(down, right, indexing="ij")
        return torch.hypot(rows, columns), torch.atan2(-rows, columns)


def rings_and_angles(scale: float, inner_radius: float, outer_radius: float) -> tuple[int, int]:
    """N and A for windows whose size is `scale` times their distance, about twice as long as they are wide."""
    return math.ceil(math.log(outer_radius / inner_radius) / scale), math.floor(4 * math.pi / scale)


def profile(x: Tensor) -> Tensor:
    """A window of width 1 around 0 with cosine flanks: profiles at distances of 1 sum to 1."""
    flat, end = (1 - TRANSITION) / 2, (1 + TRANSITION) / 2
    distance = (x.abs() - flat).clamp(0, end - flat) / TRANSITION
    return torch.cos(math.pi / 2 * distance).square()


def pooled(image: Tensor, windows: Tensor) -> Tensor:
    """Means over windows, weighted by them: (B, C, H, W) and (K, H, W) -> (B, C, K)."""
    total = windows.flatten(1).sum(1).clamp(min=1e-6)
    return image.flatten(2) @ windows.flatten(1).T.to(image) / total.to(image)
