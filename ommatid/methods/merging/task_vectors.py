"""Task vectors: what fine-tuning added to the parameters, and sums of it.

"Editing Models with Task Arithmetic" (arXiv 2212.04089). Parameters are dictionaries by name, in the model's order;
those of T tasks have an axis more in front.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure

Parameters = dict[str, Tensor]


def parameters_of(model: nn.Module) -> Parameters:
    """The model's parameters without gradient, by name, in its order."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def task_vectors(model: nn.Module, tuned: Sequence[nn.Module]) -> Parameters:
    """Tuned minus original parameters, T of each: (T, ...) by name. Buffers are no part of it.

    Raises:
        ValueError: a tuned model whose parameters have other names or shapes.
    """
    require(len(tuned) > 0, "tuned", len(tuned), "1 or more models")
    base = parameters_of(model)
    states = [parameters_of(one) for one in tuned]
    shapes = {name: value.shape for name, value in base.items()}
    for state in states:
        same = {name: value.shape for name, value in state.items()} == shapes
        require(same, "tuned", type(model).__name__, "models of one architecture")
    return {name: torch.stack([state[name] - value for state in states]) for name, value in base.items()}


def composed(base: Parameters, vectors: Parameters, coefficients: Tensor) -> Parameters:
    """The parameters plus the sum of all task vectors, each times its coefficient.

    Args:
        base: of the original model; vectors: (T, ...) by the same names.
        coefficients: (T,), or (T, N) with one for each of the N parameters by itself, in their order.
    """
    return plus(base, added(vectors, coefficients))


def added(vectors: Parameters, coefficients: Tensor) -> Parameters:
    """What `composed` adds."""
    expected = [len(next(iter(vectors.values()))), len(vectors)][: coefficients.dim()]
    require(
        coefficients.dim() in (1, 2) and [*coefficients.shape] == expected,
        "coefficients",
        tuple(coefficients.shape),
        "(tasks,) or (tasks, parameters)",
    )
    by_parameter = coefficients.unbind(1) if coefficients.dim() == 2 else [coefficients] * len(vectors)
    pairs = zip(vectors.items(), by_parameter, strict=True)
    return {name: torch.tensordot(of_tasks, vector, 1) for (name, vector), of_tasks in pairs}


def plus(base: Parameters, change: Parameters) -> Parameters:
    return {name: value + change[name] for name, value in base.items()}


@torch.no_grad()
def with_parameters(model: nn.Module, parameters: Parameters) -> nn.Module:
    """A copy of the model that has these parameters: what a merge leaves, with no cost of its own."""
    merged = copy.deepcopy(model)
    for name, parameter in merged.named_parameters():
        parameter.copy_(parameters[name])
    return merged


class TwoLayers(nn.Module):
    """The network that the reference cases merge: (B, in) -> (B, out)."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        inputs, hidden, outputs = dims
        self.fc1 = nn.Linear(inputs, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.norm(self.fc1(x))))


class TaskVectorProcedure(Procedure):
    """Base of the cases that have a network and a task vector of it for each task."""

    def __init__(self, config: PartConfig, dims: Sequence[int], tasks: int) -> None:
        super().__init__(config)
        require(len(dims) == 3, "dims", tuple(dims), "three widths: of the input, between, of the output")
        require_positive(dims=tuple(dims), tasks=tasks)
        self.model = TwoLayers(dims).requires_grad_(False)
        self.task_vectors = nn.ModuleList(TwoLayers(dims).requires_grad_(False) for _ in range(tasks))

    def vectors(self) -> Parameters:
        states = [parameters_of(vector) for vector in self.task_vectors]
        return {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def answer(self, parameters: Parameters, x: Tensor) -> Tensor:
        return functional_call(self.model, parameters, (x,))
