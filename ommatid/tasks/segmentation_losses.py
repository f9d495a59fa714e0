"""Distances between logits and the classes of pixels: how sure, how much overlap, and which errors cost IoU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = 255
"""The class of pixels that do not count."""

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(logits (B, C, H, W), classes (B, H, W), weights of the classes (C,) or None) -> scalar."""


def cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean over the pixels that count; 0 where none does."""
    total = F.cross_entropy(logits, classes, weights, ignore_index=IGNORED, reduction="sum")
    counted = classes != IGNORED
    if weights is None:
        return total / counted.sum().clamp_min(1)
    return total / weights[classes[counted]].sum().clamp_min(1e-6)


def dice(logits: Tensor, classes: Tensor, weights: Tensor | None = None) -> Tensor:
    """One minus twice the overlap by the sum of both, over the batch, in the mean over the classes that are there.

    Soft Dice (arXiv 1606.04797); `weights` weigh the mean.
    """
    probabilities, truth = _flat(logits, classes)
    overlap = (probabilities * truth).sum(0)
    sizes = probabilities.sum(0) + truth.sum(0)
    present = truth.sum(0) > 0
    return _mean((1 - 2 * overlap / sizes.clamp_min(1e-6))[present], None if weights is None else weights[present])


def lovasz(logits: Tensor, classes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Lovasz-softmax (arXiv 1705.08790): the convex extension of 1 - IoU, in the mean over the classes that are there.

    A sort of the pixels for each class: O(C N log N) for N pixels.
    """
    probabilities, truth = _flat(logits, classes)
    present = truth.sum(0) > 0
    probabilities, truth = probabilities[:, present], truth[:, present]
    errors, order = (truth - probabilities).abs().sort(0, descending=True)
    sorted_truth = truth.gather(0, order)
    total = sorted_truth.sum(0)
    intersection = total - sorted_truth.cumsum(0)
    union = total + (1 - sorted_truth).cumsum(0)
    jaccard = 1 - intersection / union
    steps = torch.cat([jaccard[:1], jaccard.diff(dim=0)])
    return _mean((errors * steps.detach()).sum(0), None if weights is None else weights[present])


def _flat(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and truth (N, C) of the pixels that count."""
    counted = classes != IGNORED
    probabilities = logits.float().softmax(1).movedim(1, -1)[counted]
    return probabilities, F.one_hot(classes[counted], logits.shape[1]).to(probabilities.dtype)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """0, still with a gradient, where there is no value."""
    if weights is None:
        return values.sum() / max(values.numel(), 1)
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)


def _sum(*losses: Loss) -> Loss:
    def summed(logits: Tensor, classes: Tensor, weights: Tensor | None) -> Tensor:
        return torch.stack([loss(logits, classes, weights) for loss in losses]).sum()

    return summed


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "lovasz": lovasz,
    "cross_entropy + dice": _sum(cross_entropy, dice),
    "cross_entropy + lovasz": _sum(cross_entropy, lovasz),
}
