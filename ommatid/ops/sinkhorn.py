"""Sinkhorn's normalisation: a matrix of scores becomes nearly a permutation, and then one."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """(..., N, N) -> exp(scores) scaled, rows and columns in turn, until all of them sum to 1, or nearly.

    Computed with logarithms. A short loop over the iterations, which depend on one another.
    """
    for _ in range(iterations):
        scores = scores - scores.logsumexp(-1, keepdim=True)
        scores = scores - scores.logsumexp(-2, keepdim=True)
    return scores.exp()


def nearest_permutation(matrix: Tensor) -> Tensor:
    """(n, N, N) -> the permutation matrices with the largest sum of entries of each, without gradient."""
    found = torch.zeros_like(matrix)
    for of_one, values in zip(found, matrix.detach().cpu().numpy(), strict=True):
        rows, columns = linear_sum_assignment(values, maximize=True)
        of_one[torch.from_numpy(rows), torch.from_numpy(columns)] = 1.0
    return found
