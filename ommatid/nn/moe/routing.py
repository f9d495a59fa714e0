"""What a router says: which experts work on a token, and how much each of their answers counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Routing(NamedTuple):
    """The k pairs (token, expert) of each of S tokens, among E experts.

    Attributes:
        experts: (S, k) integers, by descending preference.
        weights: (S, k), the factor of each expert's answer.
        scores: (S, E), what the router thinks of every expert, mostly probabilities.
        balance: (), the router's own balance loss, without a weight.
        kept: (S, k) booleans, which pairs are worked on; all of them where None.
        most: a number that the kept pairs never exceed, where one is known without looking.
    """

    experts: Tensor
    weights: Tensor
    scores: Tensor
    balance: Tensor
    kept: Tensor | None = None
    most: int | None = None

    @property
    def pairs(self) -> int:
        """S k."""
        return self.experts.numel()

    def kept_weights(self) -> Tensor:
        """(S, k): the weights, 0 where a pair was dropped."""
        return self.weights if self.kept is None else self.weights * self.kept.to(self.weights.dtype)

    def load(self) -> Tensor:
        """(E,) integers: the tokens that each expert works on."""
        kept = torch.ones_like(self.experts) if self.kept is None else self.kept.long()
        return kept.new_zeros(self.scores.shape[1]).scatter_add(0, self.experts.flatten(), kept.flatten())


class Router(nn.Module):
    """Base of all routers: tokens (S, C), and whatever else a router needs, -> `Routing`.

    Attributes:
        experts: E.
    """

    experts: int

    def forward(self, tokens: Tensor, *context: Tensor) -> Routing:
        raise NotImplementedError


class Dispatch(nn.Module):
    """Base of what decides which pairs are worked on: `Routing` -> the same with `kept`."""

    def forward(self, routing: Routing) -> Routing:
        raise NotImplementedError


@contextmanager
def recorded_routings(model: nn.Module) -> Iterator[list[Routing]]:
    """Collects, in order, what every layer of experts in the model decides, drops included, while the block runs.

    with recorded_routings(model) as routings:
        logits = model(image)
    loss = loss + 0.01 * balance_of(routings)
    """
    seen: list[Routing] = []
    hooks = [
        part.register_forward_hook(lambda _module, _inputs, routing: seen.append(routing))
        for part in model.modules()
        if isinstance(part, Dispatch)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def balance_of(routings: list[Routing]) -> Tensor:
    """The sum of the balance losses, of shape (); 0 where there are none."""
    return torch.stack([routing.balance for routing in routings]).sum() if routings else torch.zeros(())
