"""One rule for each head, within a budget: every plan that is best for some trade between lengths.

Plans are found by going through all of them, layer by layer, which is exact: for thousands of combinations of heads and
rules in a layer, no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ommatid.models.config import require

TOLERANCE = 1e-6
INTERVALS = 4

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Plans(NamedTuple):
    """Rule numbers by head, layers one after another.

    single: (objectives, heads), the best plan for each objective alone; single_value: [i, j] is objective i of plan j.
    pareto: (P, heads), those that no other beats in everything, with their objectives pareto_value (P, objectives).
    feasible: how many plans are within the budget.
    """

    feasible: int
    single: Integers
    single_value: Floats
    pareto: Integers
    pareto_value: Floats


def best_plans(
    losses: Sequence[Floats],
    costs: Floats,
    budgets: Floats,
    *,
    layers: int,
    lower_ratio: float,
    plan_limit: int,
) -> Plans:
    """All plans worth a look.

    Args:
        losses: for each objective (a profiled length), (heads of all layers, rules).
        costs: (lengths, rules). budgets: (lengths), what the costs of all heads may sum up to.
        lower_ratio: share of the budgets that has to be spent at least.
        plan_limit: different rules in a layer at most.

    Raises:
        ValueError: no plan is within the budget.
    """
    plans = _feasible_plans(len(losses[0]), costs, budgets, layers, lower_ratio, plan_limit)
    require(len(plans) > 0, "density_bounds", budgets.tolist(), "budgets that some plan keeps")
    heads = np.arange(plans.shape[1])
    values = np.stack([loss[heads, plans].sum(1) for loss in losses], axis=1)
    single = [_best(values, plans, objective) for objective in range(len(losses))]
    found = sorted(set(_trade_offs(values, plans, values[single])), key=lambda index: tuple(values[index]))
    kept = [index for index in found if not any(_dominates(values[other], values[index]) for other in found)]
    return Plans(len(plans), plans[single], values[single].T, plans[kept], values[kept])


def _feasible_plans(
    heads: int, costs: Floats, budgets: Floats, layers: int, lower_ratio: float, plan_limit: int
) -> Integers:
    """Every plan within the budget, (P, heads), in lexicographic order."""
    rules = range(costs.shape[1])
    layer_plans = np.array(
        [plan for plan in product(rules, repeat=heads // layers) if len(set(plan)) <= plan_limit], dtype=np.int64
    )
    layer_costs = costs[:, layer_plans].sum(2).T
    plans, spent = layer_plans, layer_costs
    for left in range(layers - 2, -1, -1):
        spent = (spent[:, None] + layer_costs[None]).reshape(-1, len(budgets))
        plans = np.concatenate(
            [np.repeat(plans, len(layer_plans), 0), np.tile(layer_plans, (len(plans), 1))], axis=1
        )  # fmt: skip
        possible = (spent + left * layer_costs.min(0) <= budgets + TOLERANCE).all(1)
        plans, spent = plans[possible], spent[possible]
    allowed = (spent <= budgets + TOLERANCE) & (spent >= lower_ratio * budgets - TOLERANCE)
    return plans[allowed.all(1)]


def _best(values: Floats, plans: Integers, objective: int, allowed: NDArray[np.bool_] | None = None) -> int:
    """The plan of the least objective; of equal ones the least sum of all, then the first in lexicographic order."""
    candidates = np.arange(len(plans)) if allowed is None else np.flatnonzero(allowed)
    least = values[candidates, objective].min()
    candidates = candidates[values[candidates, objective] <= least + TOLERANCE]
    sums = values[candidates].sum(1)
    return int(candidates[sums <= sums.min() + TOLERANCE][0])


def _trade_offs(values: Floats, plans: Integers, single: Floats) -> Iterator[int]:
    """The best plan for each objective while the others are held within one of four parts of their range."""
    lowest, highest = single.min(0), single.max(0)
    edges = np.linspace(lowest, highest, INTERVALS + 1)
    objectives = range(values.shape[1])
    for primary in objectives:
        others = [objective for objective in objectives if objective != primary]
        for parts in product(range(INTERVALS), repeat=len(others)):
            allowed = np.ones(len(values), dtype=bool)
            for objective, part in zip(others, parts, strict=True):
                value = values[:, objective]
                allowed &= (value >= edges[part, objective] - TOLERANCE) & (
                    value <= edges[part + 1, objective] + TOLERANCE
                )
            if allowed.any():
                yield _best(values, plans, primary, allowed)


def _dominates(one: Floats, other: Floats) -> bool:
    return bool((one <= other + TOLERANCE).all() and (one < other - TOLERANCE).any())
