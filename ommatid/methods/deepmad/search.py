"""DeepMAD's search: the structure of the highest score among those that stay within a budget."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ommatid.methods.deepmad.mutation import BOTTLENECK_SPACE, MOBILE_SPACE, Structure, mutated, repaired
from ommatid.methods.deepmad.score import Score, score
from ommatid.models.config import require

POPULATION = 256
MUTATIONS = 2
"""Super-blocks that change in one step."""


@dataclass(frozen=True)
class Budget:
    """What a structure may have at most; None for no limit.

    effectiveness: depth by width; published are 0.3 for residual bottlenecks, 0.5 for mobile blocks.
    """

    mega_macs: float | None = None
    mega_params: float | None = None
    layers: int | None = None
    effectiveness: float | None = 0.3

    def holds(self, found: Score) -> bool:
        limits = (self.mega_macs, self.mega_params, self.layers, self.effectiveness)
        values = (found.mega_macs, found.mega_params, found.layers, found.effectiveness)
        return all(limit is None or value <= limit for limit, value in zip(limits, values, strict=True))


def design(
    start: Structure, budget: Budget, *, image_size: int, stage_weights: Sequence[float], trials: int, seed: int = 0
) -> tuple[Structure, Score]:
    """The best structure that `trials` mutations find, and its score. Minutes for published budgets, no training.

    start: a small structure within the budget, whose kinds of blocks and strides are kept.

    Raises:
        ValueError: the first structure is beyond the budget.
    """
    chance = random.Random(seed)
    space = MOBILE_SPACE if any(block.is_mobile for block in start) else BOTTLENECK_SPACE
    first = score(start, image_size, stage_weights=stage_weights)
    require(budget.holds(first), "start", start, f"a structure within {budget}")
    population = {start: first}
    for _ in range(trials):
        child = chance.choice(list(population))
        for _ in range(MUTATIONS):
            index = chance.randrange(len(child))
            child = mutated(child, index, space, chance.choice, layer_budget=budget.layers or 0)
        child = repaired(child, image_size)
        if child in population:
            continue
        found = score(child, image_size, stage_weights=stage_weights)
        if budget.holds(found):
            population[child] = found
            if len(population) > POPULATION:
                del population[min(population, key=lambda structure: population[structure].score)]
    best = max(population, key=lambda structure: population[structure].score)
    return best, population[best]
