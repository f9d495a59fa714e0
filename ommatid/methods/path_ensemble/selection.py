"""Which paths pull the answer down: those whose removal makes more answers right.

"Revisiting Vision Transformer from the View of Path Ensemble" (arXiv 2308.06548), as docs/systems reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Selection(NamedTuple):
    """accuracy (1 + P) of the whole and without each path; gain (P) by its removal; order (P) of falling gain;
    pruned (P) booleans: gains above the margin."""

    accuracy: Tensor
    gain: Tensor
    order: Tensor
    pruned: Tensor


class PathDeleter(Protocol):
    """A model that also answers without each of its paths."""

    def deletion_logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images -> logits (B, K) of the whole, and (B, P, K) without each path."""


@torch.no_grad()
def correct_without_each(model: PathDeleter, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Which of n held-out images are classified rightly: by the whole model, and without each path; (1 + P, n).

    Args:
        model: in evaluation mode.
        batches: of images and labels (B,).
    """
    found = []
    for image, labels in batches:
        whole, without = model.deletion_logits(image)
        answers = torch.cat([whole[:, None], without], dim=1).argmax(-1)
        found.append((answers == labels[:, None]).T)
    return torch.cat(found, dim=1)


def select_paths(correct: Tensor, *, margin: float = 0.0) -> Selection:
    """Paths by what their removal gains. Remove the first ones, then measure again: gains are not additive.

    Args:
        correct: (1 + P, n) booleans, as `correct_without_each` gives them.
        margin: gains up to it prune nothing.
    """
    accuracy = correct.float().mean(1)
    gain = accuracy[1:] - accuracy[0]
    return Selection(accuracy, gain, gain.argsort(descending=True, stable=True), gain > margin)
