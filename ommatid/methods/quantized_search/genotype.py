"""What is searched: a vector of choices, some of which mean nothing beside others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Genotype = tuple[int, ...]
"""The index of each gene's choice."""

CODES = {"symmetric": 200.0, "asymmetric": 100.0}
"""What words are to a predictor; numbers are themselves, and a gene that means nothing is 0."""


@dataclass(frozen=True)
class Gene:
    """name: of what is chosen. choices: what can be, all different."""

    name: str
    choices: tuple[Any, ...]

    def code(self, index: int) -> float:
        choice = self.choices[index]
        return CODES[choice] if isinstance(choice, str) else float(choice)


@dataclass(frozen=True)
class Space:
    """Genes, and which of them count: `active` says so for the choices by name."""

    genes: tuple[Gene, ...]
    active: Callable[[dict[str, Any]], set[str]]

    @property
    def sizes(self) -> np.ndarray:
        """Choices of each gene (G,)."""
        return np.array([len(gene.choices) for gene in self.genes])

    def choices(self, genotype: Sequence[int]) -> dict[str, Any]:
        """By name."""
        return {gene.name: gene.choices[index] for gene, index in zip(self.genes, genotype, strict=True)}

    def canonical(self, genotype: Sequence[int]) -> Genotype:
        """The same candidate, with the first choice wherever a gene means nothing."""
        active = self.active(self.choices(genotype))
        return tuple(int(index) if gene.name in active else 0 for gene, index in zip(self.genes, genotype, strict=True))

    def codes(self, genotype: Sequence[int]) -> list[float]:
        """A number for each gene, 0 for one that means nothing: equal for equal candidates."""
        active = self.active(self.choices(genotype))
        return [
            gene.code(index) if gene.name in active else 0.0 for gene, index in zip(self.genes, genotype, strict=True)
        ]
