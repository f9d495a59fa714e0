"""Where two streams are added, the maps of their neurons must become one.

Each policy takes the map of the residual stream and of the branch, (n0, n1) both, and activations (samples, n1) of the
anchor in both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Policy = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def of_branch(residual: Tensor, branch: Tensor, residual_acts: Tensor, branch_acts: Tensor) -> Tensor:
    return branch


def of_residual(residual: Tensor, branch: Tensor, residual_acts: Tensor, branch_acts: Tensor) -> Tensor:
    return residual


def identity(residual: Tensor, branch: Tensor, residual_acts: Tensor, branch_acts: Tensor) -> Tensor:
    return torch.eye(*residual.shape, dtype=residual.dtype, device=residual.device)


def mean(residual: Tensor, branch: Tensor, residual_acts: Tensor, branch_acts: Tensor) -> Tensor:
    return (residual + branch) / 2


def weighted_scalar(residual: Tensor, branch: Tensor, residual_acts: Tensor, branch_acts: Tensor) -> Tensor:
    """Each by the mean size of its activations."""
    sizes = residual_acts.abs().mean(), branch_acts.abs().mean()
    return (sizes[0] * residual + sizes[1] * branch) / (sizes[0] + sizes[1])


def weighted_matrix(residual: Tensor, branch: Tensor, residual_acts: Tensor, branch_acts: Tensor) -> Tensor:
    """The same for every neuron of the anchor by itself."""
    sizes = residual_acts.abs().mean(0), branch_acts.abs().mean(0)
    share = sizes[0] / (sizes[0] + sizes[1])
    return residual * share + branch * (1 - share)


POLICIES: dict[str, Policy] = {
    "no_resid": of_branch,
    "only_resid": of_residual,
    "resid_as_identity": identity,
    "mean": mean,
    "weighted_scalar": weighted_scalar,
    "weighted_matrix": weighted_matrix,
}
