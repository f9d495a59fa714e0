"""Dispatch: which of the pairs that a router chose are worked on, given how many an expert can take."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ommatid.nn.moe.routing import Dispatch, Routing


class Dropless(Dispatch):
    """All pairs are worked on, however unevenly they are spread."""

    def forward(self, routing: Routing) -> Routing:
        return routing


class Capacity(Dispatch):
    """An expert takes at most k floor(factor ceil(S / E)) pairs; what comes later is dropped. Tutel (arXiv 2206.03382).

    First choices come before all second ones, and so on. With so many experts or so small a factor that the capacity is
    0, all is dropped, and the layer answers 0. What a token gets depends on the others.

    Args:
        factor: how much more an expert takes than if all were loaded alike.
        prioritized: tokens come by descending highest score, not by their place (arXiv 2106.05974).
        alignment: capacities are rounded up to its multiples.
    """

    def __init__(self, factor: float = 1.25, *, prioritized: bool = False, alignment: int = 1) -> None:
        super().__init__()
        if factor <= 0:
            raise ValueError(f"factor = {factor} is not possible: allowed is above 0; Dropless() drops nothing")
        self.factor = factor
        self.prioritized = prioritized
        self.alignment = alignment

    def forward(self, routing: Routing) -> Routing:
        tokens, k = routing.experts.shape
        count = routing.scores.shape[1]
        places = aligned(capacity(tokens, count, k, self.factor), self.alignment)
        order = priority(routing.scores) if self.prioritized else None
        kept = locations(routing.experts, count, order) < places
        kept = kept if routing.kept is None else kept & routing.kept
        return routing._replace(kept=kept, most=places * count)


def capacity(tokens: int, experts: int, top_k: int, factor: float) -> int:
    """k floor(factor ceil(S / E))."""
    return top_k * int(factor * math.ceil(tokens / experts))


def aligned(places: int, alignment: int) -> int:
    """Rounded up to a multiple."""
    return -(-places // alignment) * alignment


def priority(scores: Tensor) -> Tensor:
    """(S,): the tokens by descending highest score."""
    return scores.detach().max(-1).values.argsort(descending=True)


def locations(experts: Tensor, count: int, order: Tensor | None = None) -> Tensor:
    """The place of each pair at its expert, (S, k): all first choices before all second ones, dropped or not.

    Args:
        experts: (S, k), the chosen of `count` experts.
        count: E.
        order: (S,), the tokens in the order in which they come; as they lie where None.
    """
    tokens, k = experts.shape
    arriving = experts if order is None else experts.index_select(0, order)
    ranked, arrival = arriving.T.flatten().sort(stable=True)
    load = ranked.new_zeros(count).scatter_add(0, ranked, torch.ones_like(ranked))
    starts = load.cumsum(0) - load
    place = torch.arange(tokens * k, device=experts.device) - starts.index_select(0, ranked)
    placed = torch.empty_like(place).scatter(0, arrival, place).view(k, tokens).T
    return placed if order is None else torch.empty_like(placed).index_copy(0, order, placed)
