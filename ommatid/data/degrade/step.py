"""What every degradation is made of: a strength drawn from a range, and an answer that a file could hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
        grid: side in pixels of the blocks that it works in, counted from the upper left corner; 1 for none.
    """

    @property
    def scale(self) -> int: ...

    @property
    def reach(self) -> int: ...

    @property
    def grid(self) -> int: ...

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class Strength(ABC):
    """Base of the degradations that a word and a `Range` of strengths describe; the others' attributes as of `Step`.

    Attributes:
        word: its name.
        allowed: the strengths that make sense.
        usual: taken where none is written; None where one has to be.
        meaning: of the number, in words.
    """

    strength: Range
    word: ClassVar[str]
    allowed: ClassVar[Range]
    usual: ClassVar[Range | None] = None
    meaning: ClassVar[str]
    scale: ClassVar[int] = 1
    grid: ClassVar[int] = 1

    @property
    def reach(self) -> int:
        return 0

    @abstractmethod
    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor: ...

    def __str__(self) -> str:
        return f"{self.word} {self.strength}"


def eight_bit(picture: Tensor) -> Tensor:
    """Rounded and clipped to the values of an 8-bit file, still 0 to 1."""
    return (picture * 255).round().clamp(0, 255) / 255
