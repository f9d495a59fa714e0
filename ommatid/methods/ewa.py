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
from torch.func import functional_call

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.reference import stack_experts
from ommatid.models.registry import register, register_part
from ommatid.nn.feedforward import MLP
from ommatid.nn.moe import stack
from ommatid.ops.grouped import group_of_rows


class RandomExperts(nn.Module):
    """E copies of an MLP, each for a random part of all tokens in training, their mean after: (..., C) -> (..., C).

    There is no router and nothing to balance, and the cost is that of one MLP.

    Args:
        mlps: the experts, all of one shape.
    """

    def __init__(self, mlps: Iterable[MLP]) -> None:
        super().__init__()
        copies = list(mlps)
        require(len(copies) > 0, "experts", len(copies), "1 or more")
        self.experts = stack(copies[0], len(copies))
        states = [mlp.state_dict() for mlp in copies]
        self.experts.load_state_dict({name: torch.stack([state[name] for state in states]) for name in states[0]})

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        if self.training:
            return self.partitioned(tokens, torch.rand(len(tokens), device=x.device))[0].view(x.shape)
        mean = {name: value.mean(0, keepdim=True) for name, value in self.experts.named_parameters()}
        ends = torch.tensor([len(tokens)], dtype=torch.int32, device=x.device)
        return functional_call(self.experts, mean, (tokens, ends)).view(x.shape)

    def partitioned(self, tokens: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (S, C) through experts by the rank of their noise (S,): answers (S, C) and whose they are (S,).

        Every expert has S / E tokens; where E does not divide S, the first ones have a token more.
        """
        count = len(next(self.experts.parameters()))
        part = torch.arange(1, count + 1, dtype=torch.int32, device=tokens.device)
        ends = part * (len(tokens) // count) + part.clamp(max=len(tokens) % count)
        order = noise.argsort()
        answers = self.experts(tokens.index_select(0, order), ends)
        assignment = torch.empty_like(order).index_copy(0, order, group_of_rows(ends, len(tokens)))
        return torch.empty_like(answers).index_copy(0, order, answers), assignment

    def dense(self) -> MLP:
        """The MLP of the experts' mean weights."""
        means = {name: value.detach().mean(0) for name, value in self.experts.named_parameters()}
        hidden, dim = means["fc1.weight"].shape
        mlp = MLP(dim, hidden, act=self.experts.get_submodule("act"), bias="fc1.bias" in means)
        mlp.load_state_dict(means)
        return mlp.to(means["fc1.weight"]).train(self.training)


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
        return {name.replace(".", "_"): weight for name, weight in experts.experts.named_parameters()}


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


REFERENCE_NAMES = [(r"^experts\.", "experts.experts.")]


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Stacks the experts, which the reference stores one by one."""
    return stack_experts(state)
