"""How little a layer changes its input, and when the layers behind it may be left out.

"You Need Multiple Exiting: Dynamic Early Exiting for Accelerating Unified Vision Language Model" (arXiv 2211.11152).
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def similarity(before: Tensor, after: Tensor) -> Tensor:
    """The cosine between two states of one shape, each as one long vector, batch and all: ()."""
    return F.cosine_similarity(before.flatten().float(), after.flatten().float(), dim=0)


def saturated(before: Tensor, after: Tensor, threshold: float) -> bool:
    """Whether the cosine is above the threshold; a threshold of 1 is never passed."""
    return threshold < 1 and bool(similarity(before.detach(), after.detach()) > threshold)


def decayed_thresholds(max_length: int, threshold: float) -> list[float]:
    """For each of max_length + 1 steps of a decoder: 1 in the first third, then falling towards 0.9 `threshold`."""
    steps = max_length + 1
    return [1.0 if step < steps / 3 else 0.9 * threshold + 0.1 * math.exp(-(step + 1) / steps) for step in range(steps)]
