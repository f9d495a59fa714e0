"""Small changes of an image that mislead a model, found by following the gradient of a loss uphill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ommatid.models.config import require

Objective = Callable[[Tensor], Tensor]
"""Images (B, C, H, W), values from 0 to 1 -> one or more terms, whose sum an attack makes larger."""


@dataclass(frozen=True)
class Budget:
    """How far an attack may go: no value further than `epsilon` from the image, in `steps` steps of `step_size`.

    Raises:
        ValueError: a number is impossible.
    """

    epsilon: float
    step_size: float
    steps: int

    def __post_init__(self) -> None:
        require(0 <= self.epsilon <= 1, "epsilon", self.epsilon, "from 0 to 1, the largest change of a value")
        require(self.step_size >= 0, "step_size", self.step_size, "0 or more")
        require(self.steps >= 1, "steps", self.steps, "1 or more")


class Step(NamedTuple):
    """One step of an attack: the terms of the objective before it, their gradient, and the images after it."""

    terms: Tensor
    gradient: Tensor
    image: Tensor


def ascent(objective: Objective, image: Tensor, start: Tensor, budget: Budget) -> Iterator[Step]:
    """Steps along the sign of the gradient, each brought back near the image (arXiv 1706.06083).

    Args:
        image: (B, C, H, W), values from 0 to 1, as those of every image on the way.
        start: where to begin, of the same shape.
    """
    image, attacked = image.detach(), start.detach()
    for _ in range(budget.steps):
        attacked.requires_grad_()
        with torch.enable_grad():
            terms = objective(attacked)
            (gradient,) = torch.autograd.grad(terms.sum(), attacked)
        moved = attacked.detach() + budget.step_size * gradient.sign()
        attacked = moved.clamp(image - budget.epsilon, image + budget.epsilon).clamp(0, 1)
        yield Step(terms.detach(), gradient, attacked)


def pgd(objective: Objective, image: Tensor, budget: Budget, start: Tensor | None = None) -> Tensor:
    """The images after all steps of `ascent`, from a random place within the budget where no `start` is given."""
    if start is None:
        start = (image + budget.epsilon * (2 * torch.rand_like(image) - 1)).clamp(0, 1)
    *_, last = ascent(objective, image, start, budget)
    return last.image


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL(softmax(logits) || softmax(others)), summed over the batch: (B, C) twice -> ()."""
    return F.kl_div(others.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="sum")


def trades_loss(logits: Tensor, attacked: Tensor, labels: Tensor, beta: float, *, weight: float = 1.0) -> Tensor:
    """weight * cross-entropy + beta * mean KL from natural to attacked logits (B, C): (). TRADES (arXiv 1901.08573)."""
    return weight * F.cross_entropy(logits, labels) + beta / len(logits) * divergence(logits, attacked)
