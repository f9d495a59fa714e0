"""Classifiers and losses for every prefix of a feature vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.config import require, require_positive


class MatryoshkaHead(nn.Module):
    """One classifier for each prefix of the features: (B, D) -> logits (G, B, K), from the shortest prefix on.

    With one size it is an ordinary linear layer on the first features, the baseline of a fixed size.

    Args:
        nesting: the sizes m_1 < ... < m_G of the prefixes; features behind the last one are not read.
        num_classes: K.
        efficient: one classifier for all prefixes (MRL-E), which reads as many of its weights as there are features;
            otherwise each prefix has weights and bias of its own.
        bias: whether classifiers have one.
    """

    def __init__(self, nesting: Sequence[int], num_classes: int, *, efficient: bool = False, bias: bool = True) -> None:
        super().__init__()
        require_nesting(nesting)
        require_positive(num_classes=num_classes)
        self.nesting = tuple(nesting)
        self.efficient = efficient
        sizes = self.nesting[-1:] if efficient else self.nesting
        self.classifiers = nn.ModuleList(nn.Linear(size, num_classes, bias=bias) for size in sizes)

    def forward(self, feature: Tensor) -> Tensor:
        if not self.efficient:
            pairs = zip(self.classifiers, self.nesting, strict=True)
            return torch.stack([classifier(feature[..., :size]) for classifier, size in pairs])
        # What a longer prefix adds to the shorter one is computed once for all that contain it.
        weight, bias = self._shared
        pieces = [slice(start, end) for start, end in pairwise((0, *self.nesting))]
        added = [feature[..., piece] @ weight[:, piece].T for piece in pieces]
        logits = torch.stack(added).cumsum(0)
        return logits if bias is None else logits + bias

    def at(self, feature: Tensor, size: int) -> Tensor:
        """Logits (B, K) from the first `size` features.

        Raises:
            ValueError: no classifier reads a prefix of this size. A shared one reads any.
        """
        if self.efficient:
            require(0 < size <= self.nesting[-1], "size", size, f"from 1 to {self.nesting[-1]}")
            weight, bias = self._shared
            return F.linear(feature[..., :size], weight[:, :size], bias)
        require(size in self.nesting, "size", size, f"one of {self.nesting}")
        return self.classifiers[self.nesting.index(size)](feature[..., :size])

    @property
    def _shared(self) -> tuple[Tensor, Tensor | None]:
        (classifier,) = self.classifiers
        assert isinstance(classifier, nn.Linear)
        return classifier.weight, classifier.bias


def nested_cross_entropy(
    logits: Tensor, label: Tensor, *, importance: Sequence[float] | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """The sum over granularities of the cross-entropy of logits (G, B, K) with labels (B,): ().

    Args:
        importance: the factor of each granularity; 1 for all where None.
    """
    factors = relative_importance(importance, len(logits))
    terms = [F.cross_entropy(one, label, label_smoothing=label_smoothing) for one in logits]
    return torch.stack([factor * term for factor, term in zip(factors, terms, strict=True)]).sum()


def nested_loss(
    loss: Callable[..., Tensor], *embeddings: Tensor, nesting: Sequence[int], importance: Sequence[float] | None = None
) -> Tensor:
    """The sum of a loss over every prefix of the embeddings (..., D), each prefix brought to length 1: ().

    For contrastive and language encoders: `nested_loss(contrastive, image, text, nesting=(8, 16, 32))`.

    Args:
        loss: prefixes (..., m) of the embeddings -> ().
    """
    require_nesting(nesting)
    shortest = min(embedding.shape[-1] for embedding in embeddings)
    require(nesting[-1] <= shortest, "nesting", nesting, f"sizes up to that of the embeddings ({shortest})")
    factors = relative_importance(importance, len(nesting))
    prefixes = ([F.normalize(embedding[..., :size], dim=-1) for embedding in embeddings] for size in nesting)
    return torch.stack([factor * loss(*prefix) for factor, prefix in zip(factors, prefixes, strict=True)]).sum()


def relative_importance(importance: Sequence[float] | None, count: int) -> Sequence[float]:
    factors = [1.0] * count if importance is None else importance
    require(len(factors) == count, "relative_importance", importance, f"one factor for each of the {count} sizes")
    return factors


def require_nesting(nesting: Sequence[int]) -> None:
    grows = all(size < following for size, following in pairwise(nesting))
    require(len(nesting) > 0 and nesting[0] > 0 and grows, "nesting", nesting, "positive integers in ascending order")
