"""From dense to sparse: a softmax router whose falling temperature decides how many experts count.

"Dense-to-Sparse Gate for Mixture-of-Experts" (arXiv 2112.14397), and, with an activation around the linear part,
"Is Temperature Sample Efficient for Softmax Gaussian Mixture of Experts?" (arXiv 2401.13875).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.moe.balance import Choice as BalanceChoice
from ommatid.nn.moe.balance import any_choice_balance
from ommatid.nn.moe.routers import all_experts, full_precision, softmax
from ommatid.nn.moe.routing import Router, Routing

Activation = Literal["none", "sigmoid", "tanh", "gelu", "relu"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "relu": F.relu,
}


class ActivatedLinear(nn.Linear):
    """act(W x) + b, or act(W x + b): (..., C) -> (..., E).

    With an activation that is not linear, temperature and weights no longer do the same thing, and both are learned
    from far fewer samples (arXiv 2401.13875).
    """

    def __init__(
        self, dim: int, experts: int, activation: Activation = "sigmoid", *, bias_inside: bool = False
    ) -> None:
        super().__init__(dim, experts)
        self.activation: Activation = activation
        self.bias_inside = bias_inside

    def forward(self, x: Tensor) -> Tensor:
        act = ACTIVATIONS[self.activation]
        return act(super().forward(x)) if self.bias_inside else act(F.linear(x, self.weight)) + self.bias


class TemperatureRouter(Router):
    """Every expert whose probability reaches a threshold, and the most probable one: tokens (S, C) -> `Routing`.

    Probabilities are softmax(logits / temperature). Hot, they are alike and all experts work; cold, one. What is below
    the threshold is not computed.

    Args:
        logits: (S, C) -> (S, E).
        experts: E.
        temperature: above 0; training lowers the attribute, as `cooled` says.
        threshold: smallest probability that counts; 1 / E where None.
        renormalize: divides the weights of a token by their sum; else what is dropped is lost.
    """

    def __init__(
        self,
        logits: nn.Module,
        experts: int,
        *,
        temperature: float = 2.0,
        threshold: float | None = None,
        renormalize: bool = False,
    ) -> None:
        super().__init__()
        self.logits = logits
        self.experts = experts
        self.temperature = temperature
        self.threshold = 1 / experts if threshold is None else threshold
        self.renormalize = renormalize

    def forward(self, tokens: Tensor, *context: Tensor) -> Routing:
        logits = full_precision(self.logits, tokens, *context) / self.temperature
        scores = softmax(logits)
        best = scores.argmax(-1, keepdim=True)
        kept = (scores >= self.threshold).scatter(1, best, True)
        weights = scores * kept
        if self.renormalize:
            weights = weights / weights.sum(-1, keepdim=True)
        balance = any_choice_balance(BalanceChoice(logits, logits, scores, best, weights))
        return Routing(all_experts(scores), weights, scores, balance, kept)


def cooled(start: float, end: float, step: int, steps: int) -> float:
    """The temperature at a step of so many, geometrically from `start` to `end`, which it keeps."""
    return start * (end / start) ** (min(max(step, 0), steps) / steps)
