"""Keeping some units of a parameter, in a new order, with what an optimiser remembers of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@torch.no_grad()
def gather_(owner: nn.Module, name: str, units: Tensor, dim: int = 0, optimizer: Optimizer | None = None) -> None:
    """Replaces the parameter `name` of `owner` by its `units` along `dim`; moments of the optimiser follow."""
    old = getattr(owner, name)
    if old is None:
        return
    new = nn.Parameter(old.index_select(dim, units), requires_grad=old.requires_grad)
    setattr(owner, name, new)
    if optimizer is not None:
        replace_parameter(optimizer, old, new, units, dim)


def replace_parameter(optimizer: Optimizer, old: Tensor, new: Tensor, units: Tensor, dim: int) -> None:
    """Lets the optimiser go on with `new`, which is `units` of `old` along `dim`."""
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    remembered: dict[str, Any] = optimizer.state.pop(old, {})
    if remembered:
        optimizer.state[new] = {
            key: value.index_select(dim, units) if isinstance(value, Tensor) and value.shape == old.shape else value
            for key, value in remembered.items()
        }
