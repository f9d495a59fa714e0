"""How much each unit of a structure matters: by the loss's gradients, or by its weights alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.methods.pruning.dimensions import units_of
from ommatid.methods.pruning.structural import Group, Structure, prune

Loss = Callable[[nn.Module, Any], Tensor]
"""(model, batch) -> scalar."""


def unit_sums(structure: Structure, group: Group, values: Mapping[str, Tensor]) -> Tensor:
    """Sums of values, by tensor and of its shape, over the slices of each of the group's units: (units,)."""
    sums = torch.zeros(group.size)
    for name, place in group.members:
        if name not in values:
            continue
        units = units_of(structure.axes[name][place], group.dimension)
        slices = values[name].detach().float().movedim(place, 0).reshape(len(units), -1).sum(1).cpu()
        mine = units >= 0
        sums.index_add_(0, units[mine], slices[mine])
    return sums


def hessian_saliency(model: nn.Module, structure: Structure, loss: Loss, batches: Iterable[Any]) -> dict[str, Tensor]:
    """NViT's saliency (arXiv 2110.04869) of any model's units: the squared sum of w * g, averaged over batches.

    In evaluation mode, whose dropout and statistics are those of the model that is pruned.
    """
    model.eval()
    totals = {group.name: torch.zeros(group.size) for group in structure.groups}
    count = 0
    for batch in batches:
        model.zero_grad()
        loss(model, batch).backward()
        products = {
            name: parameter.detach() * parameter.grad
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        for group in structure.groups:
            totals[group.name] += unit_sums(structure, group, products).square()
        count += 1
    model.zero_grad()
    return {name: total / max(count, 1) for name, total in totals.items()}


def magnitude_saliency(model: nn.Module, structure: Structure) -> dict[str, Tensor]:
    """The energy of each unit's weights, as a share of its group's: no images are needed."""
    squares = {name: parameter.detach().square() for name, parameter in model.named_parameters()}
    sums = {group.name: unit_sums(structure, group, squares) for group in structure.groups}
    return {name: energy / energy.sum().clamp_min(1e-12) for name, energy in sums.items()}


def unit_costs(model: nn.Module, structure: Structure, cost: Callable[[nn.Module], float]) -> dict[str, float]:
    """What one unit of each group costs, such as multiply-adds, while the others are whole."""
    whole, costs = cost(model), {}
    for group in structure.groups:
        some = max(1, group.size // 8)
        kept = torch.arange(group.size) >= some
        costs[group.name] = (whole - cost(prune(model, structure, {group.name: kept}))) / some
    return costs
