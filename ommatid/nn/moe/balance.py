"""Balance losses: what keeps a router from sending all tokens to a few experts. Each is a scalar, without a weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Choice(NamedTuple):
    """What a balance loss looks at.

    Attributes:
        logits: (S, E), without noise.
        noisy: (S, E), with the noise of training; the same where there is none.
        scores: (S, E), probabilities, of the noisy logits.
        experts: (S, k) integers, the chosen ones, best first.
        weights: (S, k), of their answers.
    """

    logits: Tensor
    noisy: Tensor
    scores: Tensor
    experts: Tensor
    weights: Tensor


Balance = Callable[[Choice], Tensor]


def no_balance(choice: Choice) -> Tensor:
    """0: for routers that are balanced by construction."""
    return choice.scores.new_zeros(())


def first_choice_balance(choice: Choice) -> Tensor:
    """E sum_e P_e F_e, P the mean probability of an expert, F the share of tokens whose first choice it is.

    1 where all are alike. GShard (arXiv 2006.16668).
    """
    return share_balance(choice.scores, choice.experts[:, :1])


def any_choice_balance(choice: Choice) -> Tensor:
    """As `first_choice_balance`, with F the share of all k S choices."""
    return share_balance(choice.scores, choice.experts)


def share_balance(scores: Tensor, experts: Tensor, counted: Tensor | None = None) -> Tensor:
    """E sum_e P_e F_e from probabilities (S, E) and choices (S, k); no gradient through the choices.

    counted: (S, k) booleans, the choices that count for F; all where None.
    """
    count = scores.shape[1]
    ones = torch.ones_like(experts, dtype=scores.dtype) if counted is None else counted.to(scores.dtype)
    chosen = scores.new_zeros(count).scatter_add(0, experts.flatten(), ones.flatten())
    return count * (scores.mean(0) * chosen / experts.numel()).sum()


def load_importance_balance(deviation: float) -> Balance:
    """The mean of two squared variations over experts: of probability, and of expected load under noise.

    As Tutel has it (arXiv 2206.03382): the load holds probabilities against a noisy logit, that of a token's last
    choice.

    Args:
        deviation: standard deviation of the noise on a logit, times E.
    """

    def balance(choice: Choice) -> Tensor:
        clean, count = choice.logits.softmax(-1), choice.logits.shape[1]
        threshold = choice.noisy.gather(1, choice.experts[:, -1:])
        load = torch.special.ndtr((clean - threshold) * count / deviation).sum(0)
        return (squared_variation(clean.sum(0)) + squared_variation(load)) / 2

    return balance


def squared_variation(values: Tensor) -> Tensor:
    """The squared coefficient of variation over experts (E,), with the unbiased variance; 0 for a single expert."""
    if len(values) == 1:
        return values.new_zeros(())
    return values.var() / (values.mean().square() + 1e-10)


def expected_load(choice: Choice, deviation: Tensor) -> Tensor:
    """(E,): the tokens an expert would get in the mean over other noise, N(0, deviation^2), than was drawn.

    "Outrageously Large Neural Networks" (arXiv 1701.06538). With all experts chosen, S each.

    Args:
        choice: with noisy logits.
        deviation: (S, E).
    """
    k, count = choice.experts.shape[1], choice.logits.shape[1]
    if k == count:
        return choice.logits.new_full((count,), len(choice.logits))
    highest = choice.noisy.topk(k + 1).values
    to_stay, to_enter = highest[:, -1:], highest[:, -2:-1]
    threshold = torch.where(choice.noisy > to_stay, to_stay, to_enter)
    return torch.special.ndtr((choice.logits - threshold) / deviation).sum(0)
