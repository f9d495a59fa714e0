"""Keeping some units of a parameter, in a new order, with what an optimiser remembers of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ommatid.nn.resize import tell_sizes


@torch.no_grad()
def gather_(owner: nn.Module, name: str, units: Tensor, dim: int = 0, optimizer: Optimizer | None = None) -> None:
    """Replaces the parameter `name` of `owner`, if it has one, by its `units` along `dim`."""
    if getattr(owner, name) is not None:
        replace_(owner, name, lambda value: value.index_select(dim, units), optimizer)


@torch.no_grad()
def replace_(
    owner: nn.Module, name: str, pick: Callable[[Tensor], Tensor], optimizer: Optimizer | None = None
) -> nn.Parameter:
    """Replaces the parameter `name` of `owner` by what `pick` leaves of it; moments of the optimiser follow."""
    old = getattr(owner, name)
    new = nn.Parameter(pick(old).clone(), requires_grad=old.requires_grad)
    setattr(owner, name, new)
    tell_sizes(owner)
    if optimizer is not None:
        for group in optimizer.param_groups:
            group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
        remembered: dict[str, Any] = optimizer.state.pop(old, {})
        if remembered:
            optimizer.state[new] = {
                key: pick(value).clone() if isinstance(value, Tensor) and value.shape == old.shape else value
                for key, value in remembered.items()
            }
    return new
