"""A stack of linear residual layers, multiplied out: the identity, all layers side by side, all pairs of them, ..."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor


def residual_expansion(x: Tensor, weights: Iterable[Tensor]) -> Tensor:
    """The terms of prod (I + W_i) x by how many layers are chained in them: (B, C) -> (B, D + 1, C) for D layers.

    Their sum is what the stack gives, the sum of the first two what the layers give side by side. "Make Deep Networks
    Shallow Again" (arXiv 2309.08414).

    Args:
        weights: W_i, (C, C) each, from the first layer on.
    """
    terms = x.unsqueeze(1)
    for weight in weights:
        # With one more layer, every term also stands behind it, chained once more.
        terms = F.pad(terms, (0, 0, 0, 1)) + F.pad(F.linear(terms, weight), (0, 0, 1, 0))
    return terms


def residual_stack(x: Tensor, weights: Iterable[Tensor]) -> Tensor:
    """The same layers one after another: (B, C) -> (B, C)."""
    for weight in weights:
        x = x + F.linear(x, weight)
    return x
