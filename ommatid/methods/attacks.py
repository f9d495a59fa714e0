"""Small changes of an image that mislead a model, found by following the gradient of a loss uphill."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
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


SPELLING = re.compile(r"(pgd|fgsm)\s+(\S+?)(?:\s+x(\d+))?(?:\s+step\s+(\S+))?")


def parse_attack(words: str) -> Budget:
    """`"pgd 8/255 x10"`, `"pgd 0.03 x20 step 1/255"` or `"fgsm 8/255"` (one step of full length, arXiv 1412.6572).

    Without a number of steps they are 10, and without a step size a quarter of the way, as usual (arXiv 1706.06083).

    Raises:
        ValueError: words that are none of these, or an impossible number.
    """
    match = SPELLING.fullmatch(words.strip().lower())
    if match is None:
        raise ValueError(f"attack = {words!r} is not possible: allowed is 'pgd 8/255 x10', 'fgsm 8/255' and their like")
    kind, epsilon, steps, step_size = match.groups()
    furthest = _fraction(words, epsilon)
    if kind == "fgsm":
        if steps or step_size:
            raise ValueError(f"attack = {words!r} is not possible: fgsm is one step, allowed is 'fgsm {epsilon}'")
        return Budget(furthest, furthest, 1)
    return Budget(furthest, _fraction(words, step_size) if step_size else furthest / 4, int(steps or 10))


def _fraction(words: str, text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"attack = {words!r} is not possible: {text!r} is no number, allowed is 8/255 or 0.03 and their like"
        ) from None


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
