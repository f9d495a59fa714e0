"""Experts spread over processes: each holds the weights of some, and tokens or weights travel.

Where the weights lie never changes. What travels does, from layout to layout, as in Tutel (arXiv 2206.03382):

"expert": tokens go to the process that holds their expert (all-to-all), and come back.
"data": every process fetches the weights of all experts and works on its own tokens.
"mixed": processes in groups of n. Tokens stay in their group, and weights are fetched from the other groups.

All three are one number, n: the number of processes among which tokens travel.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from ommatid.nn.moe.balance import Balance, Choice
from ommatid.nn.moe.experts import StackedMLP, StackedSwiGLU
from ommatid.nn.moe.layer import MoE
from ommatid.nn.moe.routers import TopKRouter


@dataclass(frozen=True, eq=False)
class Layout:
    """Which processes exchange what with this one.

    Attributes:
        tokens: the group among whose n processes tokens travel; None for this one alone.
        weights: the group from which this process fetches weights; None for this one alone.
        sharing: n.
    """

    tokens: dist.ProcessGroup | None
    weights: dist.ProcessGroup | None
    sharing: int

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: a copy of a model has the same processes around it."""
        return self


def make_layout(sharing: int) -> Layout:
    """The layout of all processes in which tokens travel among `sharing` of them. Each process must call it.

    Raises:
        ValueError: the number of processes is no multiple of `sharing`.
    """
    processes, rank = dist.get_world_size(), dist.get_rank()
    if sharing < 1 or processes % sharing:
        raise ValueError(f"sharing = {sharing} is not possible: allowed is a divisor of the {processes} processes")
    near = [list(range(start, start + sharing)) for start in range(0, processes, sharing)]
    across = [list(range(start, processes, sharing)) for start in range(sharing)]
    return Layout(_own_group(near, rank), _own_group(across, rank), sharing)


def _own_group(members: list[list[int]], rank: int) -> dist.ProcessGroup | None:
    """The group that holds this process; None where it is alone there."""
    if len(members[0]) == 1:
        return None
    groups: dict[tuple[int, ...], Any] = {tuple(ranks): dist.new_group(ranks) for ranks in members}
    return next(group for ranks, group in groups.items() if rank in ranks)


class ParallelExperts(nn.Module):
    """Takes the place of stacked experts: rows (R, C) and ends (E,) -> (R, C_out); this process holds E / P of them.

    Gradients are those of the mean of all processes' losses, as under `DistributedDataParallel`, which must leave these
    parameters alone (`ignored_by_ddp`).

    Args:
        experts: all E of them, the same on each process.
        layout: what travels.

    Raises:
        ValueError: E is no multiple of the number of processes, or the experts are of another kind than these two.
    """

    def __init__(self, experts: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.processes = dist.get_world_size()
        self.layout = layout
        if not isinstance(experts, StackedMLP | StackedSwiGLU):
            raise ValueError(f"{type(experts).__name__} cannot be spread: allowed is StackedMLP or StackedSwiGLU")
        if experts.experts % self.processes:
            raise ValueError(f"{experts.experts} experts are not possible: allowed is a multiple of {self.processes}")
        self.held = experts.experts // self.processes
        self.experts = experts
        mine = slice(dist.get_rank() * self.held, (dist.get_rank() + 1) * self.held)
        for name, parameter in list(experts.named_parameters()):
            owner, _, leaf = name.rpartition(".")
            held = nn.Parameter(parameter.detach()[mine].clone(), requires_grad=parameter.requires_grad)
            setattr(experts.get_submodule(owner), leaf, held)

    def forward(self, rows: Tensor, ends: Tensor) -> Tensor:
        weights = {name: Fetch.apply(value, self.layout.weights) for name, value in self.experts.named_parameters()}
        counts = ends.diff(prepend=ends.new_zeros(1)).long()
        if self.layout.tokens is None:
            return functional_call(self.experts, weights, (rows, ends))
        served = self._served_by(rows.device)
        order = by_server(counts, served)
        sent = counts[served].view(self.layout.sharing, -1)
        received = exchange_counts(sent, self.layout.tokens)
        arrived = Travel.apply(rows[order], sent.sum(1).tolist(), received.sum(1).tolist(), self.layout.tokens)
        sorting = sorted_by_expert(received)
        local_ends = received.sum(0).cumsum(0).int()
        answers = functional_call(self.experts, weights, (arrived[sorting], local_ends))
        answers = torch.empty_like(answers).index_copy(0, sorting, answers)
        back = Travel.apply(answers, received.sum(1).tolist(), sent.sum(1).tolist(), self.layout.tokens)
        return torch.empty_like(back).index_copy(0, order, back)

    def _served_by(self, device: torch.device) -> Tensor:
        """(E,): the experts in the order in which the processes of a group serve them.

        The j-th serves those that it and its counterparts in the other groups hold.
        """
        numbers = torch.arange(self.held * self.processes, device=device).view(-1, self.layout.sharing, self.held)
        return numbers.transpose(0, 1).flatten()


def by_server(counts: Tensor, served: Tensor) -> Tensor:
    """(R,): rows that lie by expert, `counts` (E,) of each, in the order `served` (E,) of the experts."""
    place = torch.empty_like(served).scatter(0, served, torch.arange(len(served), device=served.device))
    return place.repeat_interleave(counts).argsort(stable=True)


def sorted_by_expert(received: Tensor) -> Tensor:
    """The rows that arrived, process after process and by expert in each, in the order of experts alone: (R,).

    Args:
        received: (n, e), how many rows came from each process for each of the e experts.
    """
    expert = torch.arange(received.shape[1], device=received.device).repeat(len(received))
    return expert.repeat_interleave(received.flatten()).argsort(stable=True)


def exchange_counts(sent: Tensor, group: dist.ProcessGroup) -> Tensor:
    """(n, e) counts for each process's experts -> (n, e) from each process, for this one's."""
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent.contiguous(), group=group)
    return received


class Travel(torch.autograd.Function):
    """Rows to other processes, as many as are named for each; gradients take the way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return travelled(rows, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return travelled(gradients[0], ctx.received, ctx.sent, ctx.group), None, None, None


def travelled(rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    arrived = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(arrived, rows.contiguous(), received, sent, group=group)
    return arrived


class Fetch(torch.autograd.Function):
    """Weights of the experts that the processes of a group hold, one after another: (e, ...) -> (m e, ...).

    Backward, what each process found goes to the holder, is added up, and is divided by the number of all processes.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        if group is None:
            return weight.view_as(weight)
        parts = [torch.empty_like(weight) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, weight.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        if ctx.group is not None:
            arrived = torch.empty_like(gradient)
            dist.all_to_all_single(arrived, gradient.contiguous(), group=ctx.group)
            gradient = arrived.unflatten(0, (dist.get_world_size(ctx.group), -1)).sum(0)
        return gradient / dist.get_world_size(), None


class Together(torch.autograd.Function):
    """Rows (S, ...) of all processes, which have equally many: (P S, ...); gradients are added up where they belong."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return everywhere(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        arrived = torch.empty_like(gradients[0])
        dist.all_to_all_single(arrived, gradients[0].contiguous())
        return arrived.unflatten(0, (dist.get_world_size(), -1)).sum(0)


def balance_of_all(balance: Balance) -> Balance:
    """The balance loss of the tokens of all processes, as one process would have it for all of them."""

    def over_processes(choice: Choice) -> Tensor:
        return balance(Choice(*(Together.apply(part) for part in choice)))

    return over_processes


def spread_experts(model: nn.Module, layout: Layout) -> nn.Module:
    """Makes every mixture in the model, in place, one whose experts are spread over all processes.

    Capacities, where there are any, hold for the tokens of each process by itself.

    Raises:
        ValueError: there is no mixture of experts, or one that cannot be spread.
    """
    mixtures = [module for module in model.modules() if isinstance(module, MoE)]
    if not mixtures:
        raise ValueError(f"{type(model).__name__} has no mixture of experts that could be spread over processes")
    for mixture in mixtures:
        mixture.experts = ParallelExperts(mixture.experts, layout)
        if isinstance(mixture.router, TopKRouter):
            mixture.router.balance = balance_of_all(mixture.router.balance)
    return model


def set_layouts(model: nn.Module, layouts: Mapping[str, Layout]) -> None:
    """Other layouts for layers of spread experts, by name: nothing but what travels from now on changes."""
    for name, layout in layouts.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, ParallelExperts)
        layer.layout = layout


def everywhere(held: Tensor) -> Tensor:
    """What all processes hold of a tensor, one after another: (e, ...) -> (E, ...). Each process must call it."""
    parts = [torch.empty_like(held) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, held.contiguous())
    return torch.cat(parts)


def own_part(whole: Tensor) -> Tensor:
    """What this process holds of a tensor of all experts: (E, ...) -> (e, ...)."""
    return whole.chunk(dist.get_world_size())[dist.get_rank()].clone()


@torch.no_grad()
def gathered(model: nn.Module) -> nn.Module:
    """A copy of the model with all experts in one place again. Each process must call it."""
    whole = copy.deepcopy(model)
    for mixture in whole.modules():
        if isinstance(mixture, MoE) and isinstance(mixture.experts, ParallelExperts):
            experts = mixture.experts.experts
            for name, held in list(experts.named_parameters()):
                owner, _, leaf = name.rpartition(".")
                parameter = nn.Parameter(everywhere(held), requires_grad=held.requires_grad)
                setattr(experts.get_submodule(owner), leaf, parameter)
            mixture.experts = experts
    return whole


def ignored_by_ddp(model: nn.Module, prefix: str = "") -> list[str]:
    """Names of the parameters that differ between processes: set them as `model._ddp_params_and_buffers_to_ignore`."""
    return [
        f"{prefix}{place}.{name}"
        for place, module in model.named_modules()
        if isinstance(module, ParallelExperts)
        for name, _ in module.named_parameters()
    ]
