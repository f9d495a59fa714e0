"""LINAS: few real measurements, many predicted ones, in turns (the search of arXiv 2312.13301)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Any

import numpy as np

from ommatid.methods.quantized_search.genotype import Genotype, Space
from ommatid.methods.quantized_search.nsga2 import evolve, ranks
from ommatid.models.config import require

Measure = Callable[[dict[str, Any]], Sequence[float]]
"""The choices of a candidate by name -> its objectives, all to be small."""

FOLDS = 5


@dataclass(frozen=True)
class Measured:
    """A candidate and its objectives."""

    genotype: Genotype
    choices: dict[str, Any]
    objectives: tuple[float, ...]


def search(
    space: Space,
    measure: Measure,
    *,
    population: int = 50,
    evaluations: int = 250,
    predicted: int = 10_000,
    seed: int = 0,
) -> list[Measured]:
    """All that was measured, in order; `front` gives the best of it.

    Args:
        population: candidates that are measured in a round. evaluations: in all rounds; fewer where there are no more.
        predicted: candidates that the predictors judge between two rounds.

    Raises:
        ValueError: a number is impossible, or scikit-learn is missing.
    """
    require(population >= 2, "population", population, "2 or more")
    require(evaluations >= 1, "evaluations", evaluations, "1 or more")
    chance, sizes = np.random.default_rng(seed), space.sizes
    known: dict[Genotype, Measured] = {}
    wanted = _unseen(space, _random(sizes, population, chance), known)
    while wanted and len(known) < evaluations:
        for genotype in wanted[: evaluations - len(known)]:
            choices = space.choices(genotype)
            known[genotype] = Measured(genotype, choices, tuple(map(float, measure(choices))))
        if len(known) < evaluations:
            start = np.concatenate([[*known][-population:], _random(sizes, population, chance)])
            fitness = predictors(space, list(known.values()))
            evolved = evolve(fitness, start, sizes, evaluations=predicted, chance=chance)
            spare = _random(sizes, 20 * population, chance)
            wanted = _unseen(space, np.concatenate([evolved, spare]), known)[:population]
    return list(known.values())


def front(measured: Sequence[Measured]) -> list[Measured]:
    """Those that no other dominates, by their first objective."""
    rank = ranks(np.array([candidate.objectives for candidate in measured]))
    best = [candidate for candidate, value in zip(measured, rank, strict=True) if value == 0]
    return sorted(best, key=lambda candidate: candidate.objectives)


def predictors(space: Space, measured: Sequence[Measured]) -> Callable[[np.ndarray], np.ndarray]:
    """Genotypes (N, G) -> objectives (N, M), as learned from what was measured."""
    codes = np.array([space.codes(candidate.genotype) for candidate in measured])
    seen = [np.unique(column) for column in codes.T]
    inputs, labels = one_hot(codes, seen), np.array([candidate.objectives for candidate in measured])
    fitted = [_fitted(inputs, column) for column in labels.T]

    def predict(genotypes: np.ndarray) -> np.ndarray:
        encoded = one_hot(np.array([space.codes(genotype) for genotype in genotypes]), seen)
        return np.stack([model(encoded) for model in fitted], 1)

    return predict


def one_hot(codes: np.ndarray, seen: Sequence[np.ndarray]) -> np.ndarray:
    """(N, G) -> (N, values that were seen of all genes)."""
    columns = [column[:, None] == values for column, values in zip(codes.T, seen, strict=True)]
    return np.concatenate(columns, 1).astype(float)


def _fitted(inputs: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Ridge regression or a support vector machine, whichever predicts parts that it has not seen better."""
    largest = float(np.abs(labels).max())
    unit = 10.0 ** (floor(log10(largest)) - 1) if largest else 1.0
    if len(labels) < FOLDS:
        mean = labels.mean()
        return lambda encoded: np.full(len(encoded), mean)
    searches = [found.fit(inputs, labels / unit) for found in _regressions()]
    best = max(searches, key=lambda found: found.best_score_)
    return lambda encoded: best.predict(encoded) * unit


def _regressions() -> list[Any]:
    try:
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import GridSearchCV
        from sklearn.svm import SVR
    except ImportError:
        raise ValueError("this search needs scikit-learn: pip install 'ommatid[search]'") from None
    grids = ((Ridge(), {"alpha": np.logspace(-4, 2, 7)}), (SVR(epsilon=0), {"C": np.logspace(-1, 4, 6)}))
    score = "neg_mean_absolute_percentage_error"
    return [GridSearchCV(model, grid, scoring=score, cv=FOLDS) for model, grid in grids]


def _random(sizes: np.ndarray, count: int, chance: np.random.Generator) -> np.ndarray:
    return chance.integers(sizes, size=(count, len(sizes)))


def _unseen(space: Space, genotypes: np.ndarray, known: dict[Genotype, Measured]) -> list[Genotype]:
    """In their order, each candidate once."""
    candidates = dict.fromkeys(space.canonical(genotype) for genotype in genotypes)
    return [candidate for candidate in candidates if candidate not in known]
