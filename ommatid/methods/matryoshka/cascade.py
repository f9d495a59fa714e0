"""Adaptive classification: an image that a short prefix is sure of needs no longer one."""

from __future__ import annotations

import torch
from torch import Tensor

from ommatid.models.config import require, require_positive


@torch.no_grad()
def learn_thresholds(logits: Tensor, label: Tensor, *, steps: int = 100) -> Tensor:
    """The confidences (G - 1,) from which each granularity but the last decides, from held-out logits (G, n, K).

    One granularity after another, on the samples that those before it left undecided: the smallest threshold of a grid
    over [0, 1] with which it and the next granularity together are right most often.

    Args:
        label: (n,).
        steps: of the grid.
    """
    require_positive(steps=steps)
    confidence, prediction = logits.softmax(-1).max(-1)
    right = (prediction == label).double()
    grid = torch.linspace(0, 1, steps + 1, device=logits.device, dtype=confidence.dtype)
    undecided = torch.ones_like(label, dtype=torch.bool)
    thresholds = []
    for granularity in range(len(logits) - 1):
        decided = confidence[granularity, undecided] > grid[:, None]
        correct = torch.where(decided, right[granularity, undecided], right[granularity + 1, undecided]).sum(1)
        thresholds.append(grid[correct.argmax()])
        undecided = undecided & (confidence[granularity] <= thresholds[-1])
    return torch.stack(thresholds) if thresholds else grid[:0]


def predict_in_cascade(logits: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Classes (n,) by the first granularity of logits (G, n, K) that is sure, and which one that was (n,).

    Args:
        thresholds: (G - 1,); a granularity decides where its largest softmax probability is above its threshold.
    """
    require(len(thresholds) == len(logits) - 1, "thresholds", len(thresholds), f"{len(logits) - 1}, all but the last")
    confidence, prediction = logits.softmax(-1).max(-1)
    sure = torch.cat([confidence[:-1] > thresholds[:, None], torch.ones_like(prediction[-1:], dtype=torch.bool)])
    first = sure.int().argmax(0)
    return prediction.gather(0, first[None])[0], first
