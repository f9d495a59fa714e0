"""How undecided a classifier is."""

from __future__ import annotations

from torch import Tensor


def softmax_entropy(logits: Tensor) -> Tensor:
    """The entropy of each row's softmax, in nats: (..., K) -> (...), from 0 to ln K."""
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
