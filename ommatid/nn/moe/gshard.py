"""The gates of GShard, Switch Transformer and DeepSpeed-MoE: capacity with a floor, and rules for who is dropped.

"GShard: Scaling Giant Models with Conditional Computation and Automatic Sharding" (arXiv 2006.16668), "Switch
Transformers" (arXiv 2101.03961), "DeepSpeed-MoE" (arXiv 2201.05596).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ommatid.nn.moe.balance import share_balance
from ommatid.nn.moe.dispatch import locations
from ommatid.nn.moe.routers import SMALLEST, full_precision, require_top_k, softmax
from ommatid.nn.moe.routing import Dispatch, Router, Routing

JITTER = 0.01

NoisyPolicy = Literal["Jitter", "RSample"] | None
DropPolicy = Literal["probs", "position"]
Priority = Literal["random", "equal", "rank", "probs", "position"]


class GShardRouter(Router):
    """The most probable expert, the two or the k most probable ones, by DeepSpeed's rules: tokens (S, C) -> `Routing`.

    Weights are probabilities; what is kept decides how they are normalised, see `GShardCapacity`.

    Args:
        dim: C.
        experts: E.
        top_k: k.
        noisy_policy: in training, "Jitter" multiplies tokens by factors within 1 % of 1, and "RSample" adds Gumbel
            noise to the logits that choose, for k = 1.
        sample_second: Gumbel noise chooses the second of k = 2 experts, after training too.
    """

    def __init__(
        self, dim: int, experts: int, top_k: int, *, noisy_policy: NoisyPolicy = None, sample_second: bool = False
    ) -> None:
        super().__init__()
        require_top_k(top_k, experts)
        self.experts = experts
        self.top_k = top_k
        self.noisy_policy = noisy_policy
        self.sample_second = sample_second
        self.logits = nn.Linear(dim, experts, bias=False)

    def forward(self, tokens: Tensor, *context: Tensor) -> Routing:
        """An entry of `context` is used as the Gumbel noise (S, E)."""
        if self.training and self.noisy_policy == "Jitter":
            tokens = tokens * torch.empty_like(tokens).uniform_(1 - JITTER, 1 + JITTER)
        logits = full_precision(self.logits, tokens)
        first = self.training and self.noisy_policy == "RSample" and self.top_k == 1
        if not (first or (self.sample_second and self.top_k == 2)):
            return choose(logits, self.top_k)
        gumbel = context[0] if context else -torch.empty_like(logits).exponential_().log()
        return choose(logits, self.top_k, gumbel=gumbel)


def choose(logits: Tensor, top_k: int, *, gumbel: Tensor | None = None, used: Tensor | None = None) -> Routing:
    """The experts of tokens with logits (S, E); weights and balance are of the logits without noise.

    Args:
        logits: (S, E).
        top_k: k.
        gumbel: (S, E), noise on the logits that choose the only, or the second of two, experts.
        used: (S,) booleans, which tokens get an expert at all.
    """
    scores, sampled = softmax(logits), logits if gumbel is None else logits + gumbel
    if top_k == 1:
        experts = (scores if gumbel is None else sampled).argmax(-1, keepdim=True)
    elif top_k == 2:
        first = scores.argmax(-1, keepdim=True)
        experts = torch.cat([first, sampled.scatter(1, first, -torch.inf).argmax(-1, keepdim=True)], 1)
    else:
        experts = scores.topk(top_k, dim=-1).indices
    counted = experts[:, :1] if top_k == 2 else experts
    balance = share_balance(scores, counted, None if used is None else used[:, None].expand_as(counted))
    kept = None if used is None else used[:, None].expand_as(experts)
    return Routing(experts, scores.gather(1, experts), scores, balance, kept)


class GShardCapacity(Dispatch):
    """An expert takes at most max(ceil(factor k S / E), min_capacity) pairs; after drops, weights are normalised.

    Which ones it takes, by `priority`: "random" ones, again and again others; "rank", first choices before second ones;
    "probs", the most probable; "position", the first to come; "equal", any. With k = 1 weights stay probabilities, else
    those that a token keeps are divided by their sum.

    Args:
        factor: in training.
        eval_factor: after it; the same where None.
        min_capacity: an expert takes at least as many.
        drop: whether there is a capacity at all.
        priority: who is taken.
    """

    def __init__(
        self,
        factor: float = 1.0,
        *,
        eval_factor: float | None = None,
        min_capacity: int = 4,
        drop: bool = True,
        priority: Priority = "random",
    ) -> None:
        super().__init__()
        self.factor = factor
        self.eval_factor = factor if eval_factor is None else eval_factor
        self.min_capacity = min_capacity
        self.drop = drop
        self.priority = priority

    def forward(self, routing: Routing, uniform: Tensor | None = None) -> Routing:
        """uniform (S, E): the random numbers in [0, 1) of the "random" priority; drawn where not given."""
        k = routing.experts.shape[1]
        if not self.drop:
            return routing if k == 1 else normalized(routing)
        places = self.places(routing)
        kept = self._taken(routing, places, uniform)
        routing = routing._replace(kept=kept, most=places * routing.scores.shape[1])
        return routing if k == 1 else normalized(routing)

    def places(self, routing: Routing) -> int:
        """The capacity, or, without one, the load of the busiest expert."""
        if not self.drop:
            return int(routing.load().max())
        tokens, k = routing.experts.shape
        factor = np.float32((self.factor if self.training else self.eval_factor) * k)
        return max(math.ceil(np.float32(tokens / routing.scores.shape[1]) * factor), self.min_capacity)

    def _taken(self, routing: Routing, places: int, uniform: Tensor | None) -> Tensor:
        """(S, k) booleans."""
        experts, count = routing.experts, routing.scores.shape[1]
        if self.priority == "rank":
            return locations(experts, count) < places
        chosen = chosen_matrix(routing)
        if self.priority == "position":
            return (chosen.cumsum(0) - 1).gather(1, experts) < places
        ranks = {"equal": chosen, "probs": chosen * routing.scores}.get(self.priority)
        if ranks is None:
            ranks = chosen * (torch.rand_like(routing.scores) if uniform is None else uniform)
        best = ranks.topk(min(places, len(ranks)), dim=0).indices
        taken = torch.zeros_like(chosen).scatter(0, best, 1.0) * chosen
        return taken.gather(1, experts) > 0


def chosen_matrix(routing: Routing) -> Tensor:
    """(S, E): 1 for the kept pairs, else 0."""
    chosen = torch.ones_like(routing.weights) if routing.kept is None else routing.kept.to(routing.weights.dtype)
    return torch.zeros_like(routing.scores).scatter_add(1, routing.experts, chosen)


def normalized(routing: Routing) -> Routing:
    """The weights that a token keeps, divided by their sum."""
    weights = routing.kept_weights()
    return routing._replace(weights=weights / weights.sum(-1, keepdim=True).clamp(min=SMALLEST))


def kept_locations(routing: Routing) -> Tensor:
    """(S, k): the place of each kept pair at its expert; of k = 2 by rank, else in the order of tokens."""
    if routing.experts.shape[1] == 2:
        return locations(routing.experts, routing.scores.shape[1])
    return (chosen_matrix(routing).cumsum(0) - 1).gather(1, routing.experts).long()


def gshard_priority(top_k: int, *, random_token_priority: bool, drop_policy: DropPolicy) -> Priority:
    """DeepSpeed's rule for each k: random or any for 1, by rank for 2, and as `drop_policy` says for more."""
    if top_k == 1:
        return "random" if random_token_priority else "equal"
    return "rank" if top_k == 2 else drop_policy
