"""Optimal transport between two sets of points that all weigh the same."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import eye, kron, vstack
from torch import Tensor

LARGEST_EXPONENT = 600.0
"""Of e, that float64 still holds with room for the factors of rows and columns."""


def sinkhorn_plan(cost: Tensor, regularisation: float, *, iterations: int = 1000, tolerance: float = 1e-9) -> Tensor:
    """What is moved where, (n, m) -> (n, m), float64: rows sum to 1 / n, columns to 1 / m, or nearly.

    "Sinkhorn Distances: Lightspeed Computation of Optimal Transport" (arXiv 1306.0895): the cheapest plan with a reward
    for spreading. A loop, since scaling rows and columns in turn is a recurrence; it ends once columns are within the
    tolerance, which is looked at every ten steps.

    Raises:
        ValueError: a regularisation that is not positive, or too small for costs like these.
    """
    least = cost.abs().max().item() / LARGEST_EXPONENT
    if not regularisation > 0 or regularisation < least:
        raise ValueError(f"regularisation = {regularisation} is not possible: allowed is a number from {least:.3g} on")
    rows, columns = cost.shape
    kernel = (-cost.double() / regularisation).exp()
    of_rows = kernel.new_full((rows,), 1 / rows)
    of_columns = kernel.new_full((columns,), 1 / columns)
    for step in range(iterations):
        of_columns = 1 / (columns * (of_rows @ kernel))
        of_rows = 1 / (rows * (kernel @ of_columns))
        if step % 10 == 0 and (of_columns * (of_rows @ kernel) - 1 / columns).norm() < tolerance:
            break
    return of_rows[:, None] * kernel * of_columns


def exact_plan(cost: Tensor) -> Tensor:
    """The cheapest plan, (n, m) -> (n, m), float64: rows sum to 1 / n, columns to 1 / m. Computed on the CPU."""
    rows, columns = cost.shape
    values = cost.detach().double().cpu().numpy()
    if rows == columns:
        plan = np.zeros_like(values)
        plan[linear_sum_assignment(values)] = 1 / rows
    else:
        plan = _programme(values)
    return torch.from_numpy(plan).to(cost.device)


def _programme(cost: np.ndarray) -> np.ndarray:
    rows, columns = cost.shape
    # In whole numbers, so that the marginals agree exactly; of the last column nothing is left to ask then.
    common = math.lcm(rows, columns)
    sums = [kron(eye(rows), np.ones((1, columns))), kron(np.ones((1, rows)), eye(columns)).tocsr()[:-1]]
    wanted = [np.full(rows, common // rows), np.full(columns - 1, common // columns)]
    found = linprog(cost.ravel(), A_eq=vstack(sums), b_eq=np.concatenate(wanted), method="highs")
    return found.x.reshape(rows, columns) / common
