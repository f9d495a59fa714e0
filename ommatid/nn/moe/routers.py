"""Routers: which experts work on a token, from its k highest logits or by other rules. All compute in float32."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.moe.balance import (
    Balance,
    Choice,
    any_choice_balance,
    expected_load,
    first_choice_balance,
    squared_variation,
)
from ommatid.nn.moe.logits import CosineLogits
from ommatid.nn.moe.routing import Router, Routing

SMALLEST = torch.finfo(torch.float32).eps
"""Weights are divided by their sum, or by this where it is smaller."""

Scoring = Callable[[Tensor], Tensor]


class TopKRouter(Router):
    """The k experts with the highest scores; tokens (S, C) -> `Routing`.

    A token whose logits are not numbers gets weights that are not: its answer, and no other, is NaN.

    Args:
        logits: (S, C) -> (S, E). What else comes with the tokens is handed on to it.
        experts: E.
        top_k: k.
        scoring: logits -> scores, (S, E); the softmax where None.
        normalize: divides the weights of a token, its k scores, by their sum; where None, if k > 1. The one weight of
            k = 1 would be 1 whatever the logits: they would not be trained.
        noise: in training, N(0, (noise / E)^2) is added to the logits.
        balance: the balance loss.

    Raises:
        ValueError: k is not between 1 and E.
    """

    def __init__(
        self,
        logits: nn.Module,
        experts: int,
        top_k: int,
        *,
        scoring: Scoring | None = None,
        normalize: bool | None = None,
        noise: float = 0.0,
        balance: Balance = first_choice_balance,
    ) -> None:
        super().__init__()
        require_top_k(top_k, experts)
        self.logits = logits
        self.experts = experts
        self.top_k = top_k
        self.scoring = scoring or softmax
        self.normalize = top_k > 1 if normalize is None else normalize
        self.noise = noise
        self.balance = balance

    def forward(self, tokens: Tensor, *context: Tensor) -> Routing:
        logits = full_precision(self.logits, tokens, *context)
        noisy = logits + torch.randn_like(logits) * (self.noise / self.experts) if self._noisy else logits
        return self.route(logits, noisy)

    @property
    def _noisy(self) -> bool:
        return self.training and self.noise > 0

    def route(self, logits: Tensor, noisy: Tensor) -> Routing:
        """What is decided for tokens with these logits, (S, E), without and with noise."""
        scores = self.scoring(noisy)
        weights, experts = scores.topk(self.top_k, dim=-1)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=SMALLEST)
        balance = self.balance(Choice(logits, noisy, scores, experts, weights))
        return Routing(experts, weights, scores, balance)


class NoisyRouter(Router):
    """The k highest of logits with learned noise, weights a softmax over these: tokens (S, C) -> `Routing`.

    "Outrageously Large Neural Networks" (arXiv 1701.06538). Both the weight given to the experts and their expected
    load are balanced. After training there is no noise, and no balance loss.
    """

    def __init__(self, dim: int, experts: int, top_k: int) -> None:
        super().__init__()
        require_top_k(top_k, experts)
        self.experts = experts
        self.top_k = top_k
        self.logits = nn.Linear(dim, experts, bias=False)
        self.spread = nn.Linear(dim, experts, bias=False)

    def forward(self, tokens: Tensor, *context: Tensor) -> Routing:
        logits = full_precision(self.logits, tokens)
        if not self.training:
            return self._routing(logits, logits)[0]
        deviation = F.softplus(full_precision(self.spread, tokens)) + 0.01
        routing, choice = self._routing(logits, logits + torch.randn_like(logits) * deviation)
        given = torch.zeros_like(logits).scatter(1, routing.experts, routing.weights).sum(0)
        balance = squared_variation(given) + squared_variation(expected_load(choice, deviation))
        return routing._replace(balance=balance)

    def _routing(self, logits: Tensor, noisy: Tensor) -> tuple[Routing, Choice]:
        highest, experts = noisy.topk(self.top_k, dim=-1)
        scores, weights = softmax(noisy), softmax(highest)
        return Routing(experts, weights, scores, logits.new_zeros(())), Choice(logits, noisy, scores, experts, weights)


class ExpertChoiceRouter(Router):
    """Every expert takes the tokens that fit it best, as many as all others do: tokens (S, C) -> `Routing`.

    "Mixture-of-Experts with Expert Choice Routing" (arXiv 2202.09368). Balanced by construction; a token may get any
    number of experts, none too. What a token gets depends on the others.

    Args:
        dim: C.
        experts: E.
        per_token: experts of a token in the mean: each expert takes ceil(S per_token / E) tokens, at most S.
    """

    def __init__(self, dim: int, experts: int, *, per_token: float = 2.0) -> None:
        super().__init__()
        if not 0 < per_token <= experts:
            raise ValueError(f"per_token = {per_token} is not possible: allowed is above 0, up to experts ({experts})")
        self.experts = experts
        self.per_token = per_token
        self.logits = nn.Linear(dim, experts, bias=False)

    def forward(self, tokens: Tensor, *context: Tensor) -> Routing:
        scores = softmax(full_precision(self.logits, tokens))
        places = min(math.ceil(tokens.shape[0] * self.per_token / self.experts), tokens.shape[0])
        taken = scores.topk(places, dim=0).indices
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter(0, taken, True)
        return Routing(all_experts(scores), scores, scores, scores.new_zeros(()), kept, places * self.experts)


class HashRouter(Router):
    """One expert for each token, by a fixed hash of its content; nothing is learned: tokens (S, C) -> `Routing`.

    After "Hash Layers For Large Sparse Models" (arXiv 2106.04426), which hashes words. Image tokens have no names: here
    the signs of a few fixed random projections are the hash, so that tokens that point the same way stay together.

    Args:
        dim: C.
        experts: E.
        planes: number of projections.
        seed: of the projections, and of the table from hashes to experts.
    """

    def __init__(self, dim: int, experts: int, *, planes: int = 8, seed: int = 0) -> None:
        super().__init__()
        self.experts = experts
        generator = torch.Generator().manual_seed(seed)
        self.directions: Tensor
        self.table: Tensor
        self.register_buffer("directions", torch.randn(dim, planes, generator=generator))
        self.register_buffer("table", torch.randperm(2**planes, generator=generator) % experts)

    def forward(self, tokens: Tensor, *context: Tensor) -> Routing:
        bits = (tokens.to(self.directions.dtype) @ self.directions > 0).long()
        number = (bits << torch.arange(bits.shape[1], device=bits.device)).sum(1)
        expert = self.table[number][:, None]
        scores = F.one_hot(expert[:, 0], self.experts).float()
        return Routing(expert, torch.ones_like(expert, dtype=torch.float32), scores, scores.new_zeros(()))


def linear_router(dim: int, experts: int, top_k: int, *, noise: float = 0.0) -> TopKRouter:
    """The usual router: one linear layer without bias, softmax, the k most probable."""
    return TopKRouter(nn.Linear(dim, experts, bias=False), experts, top_k, noise=noise)


def cosine_router(dim: int, experts: int, top_k: int, *, inner_dim: int = 256, noise: float = 0.0) -> TopKRouter:
    """As `linear_router`, from the angle between a token and each expert's direction."""
    return TopKRouter(CosineLogits(dim, experts, inner_dim=inner_dim), experts, top_k, noise=noise)


def sigmoid_router(dim: int, experts: int, top_k: int) -> TopKRouter:
    """As `linear_router`, with a sigmoid for each expert by itself: experts don't compete for probability.

    From DeepSeek-V3 (arXiv 2412.19437); all choices count for the balance.
    """

    def balance(choice: Choice) -> Tensor:
        shares = choice.scores / choice.scores.sum(-1, keepdim=True).clamp(min=SMALLEST)
        return any_choice_balance(choice._replace(scores=shares))

    return TopKRouter(nn.Linear(dim, experts, bias=False), experts, top_k, scoring=torch.sigmoid, balance=balance)


def softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def all_experts(scores: Tensor) -> Tensor:
    """(S, E): every token's pair with every expert, for routers that say by `kept` which of them count."""
    return torch.arange(scores.shape[1], device=scores.device).expand(scores.shape)


def full_precision(logits: nn.Module, tokens: Tensor, *context: Tensor) -> Tensor:
    """`logits(tokens)` in the type of its parameters, whatever autocast says, as float32 or wider."""
    dtype = next(logits.parameters()).dtype
    with torch.autocast(tokens.device.type, enabled=False):
        return logits(tokens.to(dtype), *context).to(torch.promote_types(dtype, torch.float32))


def require_top_k(top_k: int, experts: int) -> None:
    if not 1 <= top_k <= experts:
        raise ValueError(f"top_k = {top_k} is not possible: allowed is from 1 to the number of experts ({experts})")
