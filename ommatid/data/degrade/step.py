"""What every degradation is made of: a strength drawn from a range, and an answer that a file could hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Range:
    """A strength from `low` to `high`, both included; one number where they are equal."""

    low: float
    high: float

    def draw(self, generator: torch.Generator) -> float:
        """One number, evenly distributed. Draws from the generator even where there is no choice."""
        return self.low + (self.high - self.low) * torch.rand((), generator=generator).item()

    def __str__(self) -> str:
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g}-{self.high:g}"


class Step(Protocol):
    """One degradation: (3, H, W) float 0 to 1 -> (3, ceil(H / scale), ceil(W / scale)).

    Attributes:
        scale: pixels of the picture for each of the answer, along both axes.
        reach: how many pixels of the picture beyond its own place an answer's pixel depends on, at most.
    """

    @property
    def scale(self) -> int: ...

    @property
    def reach(self) -> int: ...

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor: ...

    def __str__(self) -> str: ...


class Strength(Step, Protocol):
    """A degradation that a word and a `Range` of strengths describe.

    Attributes:
        allowed: the strengths that make sense. usual: taken where none is written; None where one has to be.
        meaning: of the number.
    """

    allowed: ClassVar[Range]
    usual: ClassVar[Range | None]
    meaning: ClassVar[str]

    def __init__(self, strength: Range) -> None: ...


def eight_bit(picture: Tensor) -> Tensor:
    """Rounded and clipped to the values of an 8-bit file, still 0 to 1."""
    return (picture * 255).round().clamp(0, 255) / 255
