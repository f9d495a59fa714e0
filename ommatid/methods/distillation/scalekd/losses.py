"""How far a student's features and answers are from its teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def direct_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of tokens (B, L, C), each of length 1, summed over all of them, a mean over the batch: ().

    No positive factor of either matters.
    """
    apart = F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)
    return apart.square().sum() / len(student)


def frequency_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The same without what is constant over the map.

    The paper goes to the frequencies of a cosine transform, removes the lowest and comes back: the mean is what that
    removes.
    """
    return direct_loss(*(tokens - tokens.mean(1, keepdim=True) for tokens in (student, teacher)))


def logit_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of softened logits (B, K) with the teacher's, times the temperature's square: ()."""
    return temperature**2 * F.cross_entropy(student / temperature, (teacher / temperature).softmax(-1))
