"""Experts weights averaging: experts while it trains, the ordinary network of the same cost once it is trained.

"Experts Weights Averaging: A New General Training Scheme for Vision Transformers" (arXiv 2308.06093).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.reference import stack_experts
from ommatid.models.registry import register, register_part
from ommatid.nn.feedforward import MLP


class RandomExperts(nn.Module):
    """E copies of an MLP, each for a random part of all tokens in training, their mean after: (..., C) -> (..., C).

    There is no router and nothing to balance, and the cost is that of one MLP.

    Args:
        mlps: the experts, all of one shape.
    """

    def __init__(self, mlps: Iterable[MLP]) -> None:
        super().__init__()
        experts = list(mlps)
        require(len(experts) > 0, "experts", len(experts), "1 or more")
        self.act = experts[0].act
        self.fc1_weight, self.fc1_bias = stacked([mlp.fc1 for mlp in experts])
        self.fc2_weight, self.fc2_bias = stacked([mlp.fc2 for mlp in experts])

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.mean(x)
        tokens = x.flatten(0, -2)
        return self.partitioned(tokens, torch.rand(len(tokens), device=x.device))[0].view(x.shape)

    def partitioned(self, tokens: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (S, C) through experts by the rank of their noise (S,): answers (S, C) and whose they are (S,).

        Every expert has S / E tokens; where E does not divide S, the first ones have a token more.
        """
        count, parts = len(tokens), len(self.fc1_weight)
        capacity = -(-count // parts)
        part = torch.arange(parts, device=tokens.device)
        start = part * (count // parts) + part.clamp(max=count % parts)
        order = noise.argsort()
        # A part that is one token short borrows one whose answer nobody reads.
        taken = (start[:, None] + torch.arange(capacity, device=tokens.device)).clamp(max=count - 1)
        answers = self._experts(tokens[order[taken]])
        rank = order.argsort()
        assignment = torch.searchsorted(start, rank, right=True) - 1
        return answers[assignment, rank - start[assignment]], assignment

    def mean(self, x: Tensor) -> Tensor:
        """What the MLP of the experts' mean weights answers."""
        first, second = (means(*layer) for layer in self._layers())
        return F.linear(self.act(F.linear(x, *first)), *second)

    def dense(self) -> MLP:
        """The MLP of the experts' mean weights."""
        _, hidden, dim = self.fc1_weight.shape
        mlp = MLP(dim, hidden, act=self.act, bias=self.fc1_bias is not None).to(self.fc1_weight)
        with torch.no_grad():
            for layer, weights in zip((mlp.fc1, mlp.fc2), self._layers(), strict=True):
                for parameter, mean in zip(layer.parameters(), means(*weights), strict=False):
                    assert mean is not None
                    parameter.copy_(mean)
        return mlp.train(self.training)

    def _experts(self, tokens: Tensor) -> Tensor:
        """(E, n, C) -> (E, n, C)."""
        first, second = self._layers()
        return batched_linear(self.act(batched_linear(tokens, *first)), *second)

    def _layers(self) -> list[tuple[Tensor, Tensor | None]]:
        return [(self.fc1_weight, self.fc1_bias), (self.fc2_weight, self.fc2_bias)]


def stacked(layers: list[nn.Linear]) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Weights (E, out, in) and biases (E, out) of linear layers of one shape."""
    weights = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
    if layers[0].bias is None:
        return weights, None
    return weights, nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))


def means(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The means of a layer's stacked weights and biases over the experts."""
    return weight.mean(0), None if bias is None else bias.mean(0)


def batched_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(E, n, in) by (E, out, in), plus (E, out): (E, n, out)."""
    return x @ weight.mT if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def train_as_experts(model: nn.Module, *, experts: int = 4, every: int = 2, pretrained: bool = False) -> nn.Module:
    """Makes every `every`-th MLP of the model, in place, one of random experts, the last MLP among them.

    Args:
        pretrained: start all experts from the MLP; otherwise each is drawn anew, as spread as the MLP's own weights.

    Raises:
        ValueError: the model has no plain MLP, or a number is impossible.
    """
    require_positive(experts=experts, every=every)
    places = [name for name, module in model.named_modules() if type(module) is MLP][::-1][::every]
    if not places:
        raise ValueError(f"{type(model).__name__} has no plain MLP that could be trained as experts")
    for name in places:
        mlp = model.get_submodule(name)
        assert isinstance(mlp, MLP)
        copies = [copy.deepcopy(mlp) for _ in range(experts)]
        for expert in [] if pretrained else copies[1:]:
            redraw_(expert)
        model.set_submodule(name, RandomExperts(copies))
    return model


@torch.no_grad()
def redraw_(mlp: MLP) -> None:
    """New weights with the spread of those that are there."""
    for layer in (mlp.fc1, mlp.fc2):
        nn.init.normal_(layer.weight, std=layer.weight.std(correction=0).item())


def to_dense(model: nn.Module) -> nn.Module:
    """A copy whose random experts are plain MLPs of their mean weights again."""
    dense = copy.deepcopy(model)
    for name, module in list(dense.named_modules()):
        if isinstance(module, RandomExperts):
            dense.set_submodule(name, module.dense())
    return dense


@torch.no_grad()
def average_experts_(model: nn.Module, share_rate: float) -> None:
    """Moves every expert towards the others: (1 - rate) of its own weights, rate of their mean. After each step.

    The experts' mean stays where it is; their differences shrink by the factor 1 - rate E / (E - 1).

    Raises:
        ValueError: a rate that would overshoot.
    """
    for module in model.modules():
        if isinstance(module, RandomExperts):
            share_weights_(list(module.parameters()), share_rate)


@torch.no_grad()
def share_weights_(tensors: list[Tensor], share_rate: float) -> None:
    """`average_experts_` of weights stacked along their first axis, as those of any mixture of experts are."""
    experts = len(tensors[0])
    if experts == 1:
        return
    largest = (experts - 1) / experts
    require(0 <= share_rate <= largest, "share_rate", share_rate, f"from 0 to {largest:.3g} with {experts} experts")
    rate = share_rate * experts / (experts - 1)
    torch._foreach_lerp_(tensors, [tensor.mean(0, keepdim=True).expand_as(tensor) for tensor in tensors], rate)


def share_rate_at(step: int, steps: int, share_rate: float) -> float:
    """The rate after step `step` of `steps`, counted from 0: from 0 in a line to `share_rate` at the last one."""
    return share_rate * step / max(steps - 1, 1)


@dataclass(frozen=True, kw_only=True)
class EWAConfig(PartConfig):
    """`function` says which rule is meant, and which of the other fields it reads."""

    function: Literal["partition", "average", "convert", "schedule"] = "partition"
    dim: int = 384
    hidden_dim: int = 1536
    num_experts: int = 4
    share_rate: float = 0.3
    iterations: int = 1
    total_iterations: int = 100

    def check(self) -> None:
        require_positive(
            dim=self.dim,
            hidden_dim=self.hidden_dim,
            num_experts=self.num_experts,
            total_iterations=self.total_iterations,
        )
        require(self.iterations >= 0, "iterations", self.iterations, "0 or more")


class ExpertsProcedure(Procedure):
    """Base of the rules that work on experts."""

    config: EWAConfig

    def __init__(self, config: EWAConfig) -> None:
        super().__init__(config)
        self.experts = RandomExperts(MLP(config.dim, config.hidden_dim) for _ in range(config.num_experts))


@register("ewa", EWAConfig)
class Partition(ExpertsProcedure):
    """tokens (B, N, C) and noise (B N,) -> features (B, N, C) and the assignment (B N,) to experts."""

    def forward(self, tokens: Tensor, noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        answers, assignment = self.experts.partitioned(tokens.flatten(0, 1), noise)
        return {"features": answers.view(tokens.shape), "assignment": assignment}


@register_part("ewa", "average")
class Average(ExpertsProcedure):
    """The experts' weights after `iterations` averagings."""

    def forward(self) -> dict[str, Tensor]:  # type: ignore[override]
        experts = copy.deepcopy(self.experts)
        for _ in range(self.config.iterations):
            average_experts_(experts, self.config.share_rate)
        return dict(experts.named_parameters())


@register_part("ewa", "convert")
class Convert(ExpertsProcedure):
    """tokens (B, N, C) -> features (B, N, C) of the dense network that the experts become."""

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"features": self.experts.dense()(tokens)}


@register_part("ewa", "schedule")
class Schedule(Procedure):
    """The share rate after every iteration."""

    config: EWAConfig

    def forward(self) -> dict[str, Tensor]:  # type: ignore[override]
        steps = self.config.total_iterations
        rates = [share_rate_at(step, steps, self.config.share_rate) for step in range(steps)]
        return {"share_rate": torch.tensor(rates)}


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Stacks the experts, which the reference stores one by one."""
    return {name[::-1].replace(".", "_", 1)[::-1]: value for name, value in stack_experts(state).items()}
