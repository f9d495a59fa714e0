"""Long paths teach short ones: the answers of a network's first blocks follow that of all blocks.

"Revisiting Vision Transformer from the View of Path Ensemble" (arXiv 2308.06548), as docs/systems reads it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class PrefixLoss(NamedTuple):
    """loss and cross_entropy: scalars. divergences (L - 1): of every shorter prefix."""

    loss: Tensor
    cross_entropy: Tensor
    divergences: Tensor


def prefix_divergences(prefix_logits: Tensor, *, temperature: float) -> Tensor:
    """How far the answer of each shorter prefix is from the last one's, which gets no gradient: (B, L, K) -> (L - 1,).

    The squared temperature times the Kullback-Leibler divergence of softened probabilities, in the mean over the batch.
    """
    softened = (prefix_logits / temperature).log_softmax(-1)
    teacher, students = softened[:, -1:].detach(), softened[:, :-1]
    divergence = F.kl_div(students, teacher.expand_as(students), reduction="none", log_target=True)
    return temperature**2 * divergence.sum(-1).mean(0)


def prefix_distillation(prefix_logits: Tensor, labels: Tensor, *, temperature: float, weight: float) -> PrefixLoss:
    """The cross entropy of the last answer, plus `weight` times the mean of `prefix_divergences`.

    Args:
        prefix_logits: (B, L, K), from the shortest prefix to the whole network.
        labels: (B,).
    """
    divergences = prefix_divergences(prefix_logits, temperature=temperature)
    cross_entropy = F.cross_entropy(prefix_logits[:, -1], labels)
    return PrefixLoss(cross_entropy + weighed(divergences, weight), cross_entropy, divergences)


def weighed(divergences: Tensor, weight: float) -> Tensor:
    """`weight` times the mean; 0 where there is nothing to teach."""
    return weight * divergences.sum() / max(len(divergences), 1)
