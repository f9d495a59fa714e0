"""How many tokens of each modality are shown, and how many are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Dirichlet

TRIES = 1000


def share_out(proportions: Tensor, remainders: Tensor, total: int, most: Tensor) -> Tensor:
    """`total` tokens for M modalities: integers (B, M), each at most `most`.

    Args:
        proportions: (B, M), summing to 1. Fractions of tokens are cut off.
        remainders: (B, R, M), R at least M - 1; each token that is left goes to the largest of the next row.
        total: how many tokens.
        most: (M,) or (B, M).
    """
    budget = (proportions * total).floor().long()
    left = total - budget.sum(1, keepdim=True)
    votes = F.one_hot(remainders.argmax(-1), budget.shape[1])
    counted = torch.arange(votes.shape[1], device=votes.device) < left
    return (budget + (votes * counted[..., None]).sum(1)).minimum(most)


def room_for_targets(most: Tensor, shown: Tensor, is_image: Tensor) -> Tensor:
    """How many tokens can be asked for: of images those that are not shown, of sequences any: (B, M)."""
    return torch.where(is_image, most - shown, most)


def draw_budget(alphas: Sequence[Sequence[float]], total: int, least: Tensor, most: Tensor) -> Tensor:
    """A random way to share out `total` tokens: integers (M,), each from `least` to `most`, (M,) both.

    Args:
        alphas: of the Dirichlet distributions that proportions come from, one of which is chosen; M numbers each.
        total: how many tokens.
        least, most: of each modality.

    Raises:
        ValueError: no draw leaves as many as `least`.
    """
    chosen = alphas[int(torch.randint(len(alphas), ()))]
    distribution = Dirichlet(torch.tensor(chosen, dtype=torch.float))
    for _ in range(TRIES):
        remainders = distribution.sample(torch.Size([1, len(chosen)]))
        budget = share_out(distribution.sample()[None], remainders, total, most)[0]
        if bool((budget >= least).all()):
            return budget
    allowed = f"what one of {TRIES} draws of {total} tokens gives"
    raise ValueError(f"least = {least.tolist()} is not possible: allowed is {allowed}")
