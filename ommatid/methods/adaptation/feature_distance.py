"""Feature distance: what a network knew of things before it was trained, it is not to forget.

DAFormer (arXiv 2111.14887).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.models.config import require

IGNORED = 255


def coarse_label(label: Tensor, scale: int, *, num_classes: int, min_ratio: float = 0.75) -> Tensor:
    """The class that most of each scale x scale square is of: (B, 1, H, W) -> (B, 1, H // scale, W // scale).

    255, which counts as a class of its own, is also the answer where the class has less than `min_ratio` of the square.
    """
    known = label.where(label != IGNORED, num_classes).squeeze(1).long()
    shares = F.avg_pool2d(F.one_hot(known, num_classes + 1).movedim(-1, 1).float(), scale)
    ratio, winner = shares.max(1, keepdim=True)
    sure = (winner != num_classes) & (ratio >= min_ratio)
    return winner.where(sure, IGNORED)


def feature_distance(features: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """The mean distance of two maps of features (B, C, h, w) where `mask` (B, 1, h, w) is true, of shape ().

    NaN where it is true nowhere, as published.
    """
    distance = torch.linalg.vector_norm(features - reference, dim=1)
    return distance[mask.squeeze(1)].mean()


def thing_distance(
    features: Tensor,
    reference: Tensor,
    label: Tensor,
    things: Sequence[int],
    *,
    num_classes: int,
    min_ratio: float = 0.75,
    weight: float = 0.005,
) -> Tensor:
    """The weighted distance of a network's features to those of the frozen one that it began as, on things alone: ().

    Args:
        features, reference: (B, C, h, w), the coarsest of both.
        label: (B, 1, H, W), 255 for none; W is at least twice w.
        things: the classes that count.
        num_classes: there are classes below it.
        min_ratio: share of a cell's pixels that must be of its class.
        weight: of the loss.
    """
    scale = label.shape[-1] // features.shape[-1]
    require(
        scale > 1, "width of the label", label.shape[-1], f"at least twice that of the features, {features.shape[-1]}"
    )
    coarse = coarse_label(label, scale, num_classes=num_classes, min_ratio=min_ratio)
    return weight * feature_distance(features, reference, is_thing(coarse, things))


def is_thing(label: Tensor, things: Sequence[int]) -> Tensor:
    return torch.isin(label, torch.tensor(things, dtype=label.dtype, device=label.device))
