"""Progressive shrinking: a super-network learns its sub-networks, from the largest to ever smaller ones.

"Once for All: Train One Network and Specialize it for Efficient Deployment" (arXiv 1908.09791).
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from ommatid.models.subnets import STRIDES, Setting

FULL_EPOCHS, LONG_EPOCHS, SHORT_EPOCHS = 180, 125, 25
"""As published, warm-ups included: of the full network, of a phase that ends with all choices, and of one before it."""

PUBLISHED_RATES = (2.6 / 32, 3e-2, 7.5e-3, 2.5e-3)
FULL_RATE, KERNEL_RATE, LONG_RATE, SHORT_RATE = ((rate / PUBLISHED_RATES[0]) ** 0.5 for rate in PUBLISHED_RATES)
"""Peak learning rates as shares of the full network's: the square roots of the published ones' ratios. Those are of
SGD; what a factor is to SGD, its root is to Adam (arXiv 2205.10287)."""


class Choices(Protocol):
    """What sub-networks are drawn from: a super-network's config, or a phase of its training."""

    @property
    def kernel_sizes(self) -> Sequence[int]: ...

    @property
    def expand_ratios(self) -> Sequence[float]: ...

    @property
    def depths(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Phase:
    """A part of the training, with what may be drawn in it; the largest choices come first.

    draws: sub-networks in a step. epochs: as published; phases share a training in this proportion. rate: its peak, as
    a share of the full network's. sort_stage: how many expansions were trained before its channels are sorted, less
    one; None where they stay.
    """

    kernel_sizes: tuple[int, ...]
    depths: tuple[int, ...]
    expand_ratios: tuple[float, ...]
    draws: int
    epochs: int
    rate: float
    sort_stage: int | None = None


@dataclass(frozen=True)
class Schedule:
    """The phases, and the step at which each ends."""

    phases: tuple[Phase, ...]
    ends: tuple[int, ...]

    def number(self, step: int) -> int:
        """Of the phase that a step is in."""
        return min(bisect_right(self.ends, step), len(self.phases) - 1)

    def steps(self, number: int) -> range:
        """Of a phase."""
        return range(self.ends[number - 1] if number else 0, self.ends[number])


def phases(whole: Choices) -> list[Phase]:
    """The full network; then kernels, depths and expansions are freed in this order, the smaller ones later."""
    kernels, depths = (tuple(sorted(values, reverse=True)) for values in (whole.kernel_sizes, whole.depths))
    expands = tuple(sorted(whole.expand_ratios, reverse=True))
    found = [Phase(kernels[:1], depths[:1], expands[:1], draws=1, epochs=FULL_EPOCHS, rate=FULL_RATE)]
    if len(kernels) > 1:
        found.append(Phase(kernels, depths[:1], expands[:1], draws=1, epochs=LONG_EPOCHS, rate=KERNEL_RATE))
    for count in range(2, len(depths) + 1):
        epochs, rate = _share(count == len(depths))
        found.append(Phase(kernels, depths[:count], expands[:1], draws=2, epochs=epochs, rate=rate))
    for count in range(2, len(expands) + 1):
        epochs, rate = _share(count == len(expands))
        found.append(Phase(kernels, depths, expands[:count], draws=4, epochs=epochs, rate=rate, sort_stage=count - 2))
    return found


def _share(last: bool) -> tuple[int, float]:
    """Epochs and rate of one of several phases that free the same choice."""
    return (LONG_EPOCHS, LONG_RATE) if last else (SHORT_EPOCHS, SHORT_RATE)


def schedule(whole: Choices, steps: int, *, full: float) -> Schedule:
    """The phases in a training of `steps` steps, `full` of which (0 to 1) are the full network's."""
    first, *others = phases(whole)
    epochs = sum(phase.epochs for phase in others)
    shares = [full, *((1 - full) * phase.epochs / epochs for phase in others)] if others else [1.0]
    ends = [round(steps * share) for share in accumulate(shares)]
    return Schedule((first, *others), (*ends[:-1], steps))


def random_setting(choices: Choices, chance: random.Random) -> Setting:
    """A sub-network drawn evenly, block by block and stage by stage."""
    blocks = max(choices.depths) * len(STRIDES)
    return Setting(
        tuple(chance.choice(choices.kernel_sizes) for _ in range(blocks)),
        tuple(chance.choice(choices.expand_ratios) for _ in range(blocks)),
        tuple(chance.choice(choices.depths) for _ in STRIDES),
    )


def smallest(choices: Choices) -> Setting:
    """The smallest sub-network there is."""
    blocks = max(choices.depths) * len(STRIDES)
    return Setting(
        (min(choices.kernel_sizes),) * blocks,
        (min(choices.expand_ratios),) * blocks,
        (min(choices.depths),) * len(STRIDES),
    )
