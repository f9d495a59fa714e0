"""Degradations in words: `defocus 1-2 + bicubic x2 + noise 0-10 + jpeg 60-95`, applied from left to right."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from ommatid.data.degrade.blur import Defocus, Motion
from ommatid.data.degrade.jpeg import Jpeg
from ommatid.data.degrade.light import LowLight
from ommatid.data.degrade.noise import Noise
from ommatid.data.degrade.resize import Bicubic
from ommatid.data.degrade.step import Range, Step, Strength
from ommatid.data.degrade.weather import Haze, Rain

BICUBIC = "bicubic"
FACTORS = (2, 3, 4, 8)

WORDS: dict[str, type[Strength]] = {kind.word: kind for kind in (Noise, Jpeg, Motion, Defocus, Rain, Haze, LowLight)}

SYNONYMS = {
    "x": BICUBIC,
    "downsample": BICUBIC,
    "sr": BICUBIC,
    "gaussian": "noise",
    "awgn": "noise",
    "sigma": "noise",
    "quality": "jpeg",
    "jpg": "jpeg",
    "blur": "motion or defocus",
    "fog": "haze",
    "dark": "lowlight",
    "light": "lowlight",
}
"""Words that are meant for ours, to suggest those by."""

NUMBER = r"\d+(?:\.\d+)?|\.\d+"


@dataclass(frozen=True)
class Degradation:
    """Steps that are applied one after another."""

    steps: tuple[Step, ...]

    @property
    def text(self) -> str:
        """In words that `parse` takes, with every strength written out."""
        return " + ".join(map(str, self.steps))

    @property
    def scale(self) -> int:
        """Pixels of a picture for each of the degraded one, along both axes."""
        return math.prod(step.scale for step in self.steps)

    @property
    def reach(self) -> int:
        """How many pixels of the picture beyond its own place a degraded pixel depends on, at most."""
        total, scale = 0, 1
        for step in self.steps:
            total += scale * step.reach
            scale *= step.scale
        return total

    @property
    def grid(self) -> int:
        """Side of the blocks of degraded pixels that a picture may be cut at without a change of what it becomes."""
        return math.lcm(*(step.grid for step in self.steps))

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        """(3, H, W) float, 0 to 1 -> (3, ceil(H / scale), ceil(W / scale)); all that is random is the generator's."""
        for step in self.steps:
            picture = step(picture, generator)
        return picture


def parse(text: str) -> Degradation:
    """Raises ValueError, saying what is allowed, for text that is no degradation."""
    degradation = Degradation(tuple(_step(part.strip()) for part in text.lower().split("+")))
    if sum(isinstance(step, Bicubic) for step in degradation.steps) > 1:
        raise ValueError(f"degrade {text!r} has more than one bicubic; its factor is the network's scale, so give one")
    return degradation


def _step(part: str) -> Step:
    word, *values = part.split() or [""]
    if word not in (BICUBIC, *WORDS):
        raise ValueError(f"no degradation is called {word!r}{_meant(word)}; there are {', '.join((BICUBIC, *WORDS))}")
    if len(values) > 1:
        raise ValueError(f"{part!r} has more than one value; join degradations by +, as in 'bicubic x2 + noise 10'")
    value = "".join(values)
    return _bicubic(value) if word == BICUBIC else _strength(word, value)


def _bicubic(value: str) -> Bicubic:
    if value not in {f"x{factor}" for factor in FACTORS}:
        raise ValueError(f"bicubic takes x2, x3, x4 or x8, not {value!r}")
    return Bicubic(int(value[1:]))


def _strength(word: str, value: str) -> Step:
    kind = WORDS[word]
    if not value and kind.usual is not None:
        return kind(kind.usual)
    strength = _range(value)
    if strength is None or not kind.allowed.low <= strength.low <= strength.high <= kind.allowed.high:
        low, high = kind.allowed.low, kind.allowed.high
        raise ValueError(
            f"{word} takes a number from {low:g} to {high:g} ({kind.meaning}), or two joined by -, the smaller first, "
            f"to draw one between them for each picture; not {value!r}"
        )
    return kind(strength)


def _range(value: str) -> Range | None:
    numbers = re.fullmatch(rf"({NUMBER})(?:-({NUMBER}))?", value)
    if numbers is None:
        return None
    low, high = numbers.groups()
    return Range(float(low), float(high or low))


def _meant(word: str) -> str:
    """A suggestion, also for a word that was written in one with its value."""
    known = {name: name for name in (BICUBIC, *WORDS)} | SYNONYMS
    letters = re.sub(r"[\d.-]+$", "", word)
    close = [known[name] for name in difflib.get_close_matches(letters, known, n=1)]
    return f", did you mean {close[0]}?" if close else ""
