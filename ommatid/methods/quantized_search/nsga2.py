"""NSGA-II over integers (Deb et al., 2002, doi 10.1109/4235.996017). All objectives are to be small."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CROSSOVER, CROSSOVER_ETA = 0.9, 15.0
MUTATION, MUTATION_ETA = 0.02, 20.0


def dominates(points: np.ndarray) -> np.ndarray:
    """(N, M) -> (N, N): whether the row's point is nowhere worse than the column's, and somewhere better."""
    one, other = points[:, None], points[None]
    return np.asarray((one <= other).all(-1) & (one < other).any(-1))


def ranks(points: np.ndarray) -> np.ndarray:
    """(N, M) -> (N,): 0 where nothing dominates, 1 where only points of rank 0 do, and so on."""
    beaten = dominates(points)
    found = np.full(len(points), -1)
    rank = 0
    while (found < 0).any():
        left = found < 0
        found[left & ~beaten[left].any(0)] = rank
        rank += 1
    return found


def crowding(points: np.ndarray) -> np.ndarray:
    """(N, M) -> (N,): how far apart the neighbours are, summed over objectives; infinite at the ends."""
    distance = np.zeros(len(points))
    for values in points.T:
        order = np.argsort(values, kind="stable")
        inner, spread = order[1:-1], np.ptp(values)
        distance[order[[0, -1]]] = np.inf
        if spread > 0:
            distance[inner] += (values[order[2:]] - values[order[:-2]]) / spread
    return distance


def best_first(points: np.ndarray) -> np.ndarray:
    """(N, M) -> (N,): indices by rank, within a rank by crowding distance, the largest first."""
    rank, distance = ranks(points), np.zeros(len(points))
    for value in np.unique(rank):
        distance[rank == value] = crowding(points[rank == value])
    return np.lexsort((-distance, rank))


def evolve(
    fitness: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    sizes: np.ndarray,
    *,
    evaluations: int,
    chance: np.random.Generator,
) -> np.ndarray:
    """The last population (P, G), best first.

    Args:
        fitness: (N, G) -> (N, M), to be small.
        start: the first population (P, G). sizes: choices of each gene (G,).
        evaluations: candidates that `fitness` sees, more or less.
    """
    population, points = start, fitness(start)
    for _ in range(max(evaluations // len(start) - 1, 0)):
        place = np.argsort(best_first(points))
        pairs = chance.integers(len(population), size=(2, len(population)))
        parents = population[np.where(place[pairs[0]] < place[pairs[1]], *pairs)]
        children = mutated(crossed(parents, sizes, chance), sizes, chance)
        population, points = np.concatenate([population, children]), np.concatenate([points, fitness(children)])
        kept = best_first(points)[: len(start)]
        population, points = population[kept], points[kept]
    return population


def crossed(parents: np.ndarray, sizes: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Simulated binary crossover of neighbours: (P, G) -> (P, G); an odd last one stays as it is."""
    half = len(parents) // 2
    one, two = parents[:half].astype(float), parents[half : 2 * half].astype(float)
    draw = chance.random(one.shape)
    spread = np.where(draw < 0.5, 2 * draw, 1 / (2 - 2 * draw)) ** (1 / (CROSSOVER_ETA + 1))
    near, far = ((1 + sign * spread) * one / 2 + (1 - sign * spread) * two / 2 for sign in (1, -1))
    swapped = chance.random(one.shape) < 0.5
    happens = chance.random((half, 1)) < CROSSOVER
    children = [
        np.where(happens, np.where(swapped, *sides), old) for sides, old in (((far, near), one), ((near, far), two))
    ]
    return np.concatenate([_integers(np.concatenate(children), sizes), parents[2 * half :]])


def mutated(genes: np.ndarray, sizes: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Polynomial mutation of single genes: (P, G) -> (P, G)."""
    draw = chance.random(genes.shape)
    power = 1 / (MUTATION_ETA + 1)
    step = np.where(draw < 0.5, (2 * draw) ** power - 1, 1 - (2 - 2 * draw) ** power) * sizes
    return _integers(genes + np.where(chance.random(genes.shape) < MUTATION, step, 0), sizes)


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """What points (N, M) dominate of the space up to `reference` (M,): the larger, the better."""
    points = points[(points < reference).all(1)]
    if points.shape[1] == 1:
        return float((reference - points).max(initial=0.0))
    points = points[np.argsort(points[:, -1])]
    ends = np.append(points[1:, -1], reference[-1])[: len(points)]
    return sum(
        (end - point) * hypervolume(points[: count + 1, :-1], reference[:-1])
        for count, (point, end) in enumerate(zip(points[:, -1], ends, strict=True))
        if end > point
    )


def _integers(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, sizes - 1).astype(int)
