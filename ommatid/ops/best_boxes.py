"""From all boxes that a detector scores to those that it tells of: the best, without what they overlap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

CANDIDATES = 1000
"""Boxes of each level that overlaps are looked for among."""


def best_boxes(
    scores: Sequence[Tensor],
    boxes: Sequence[Tensor],
    image_size: tuple[int, int],
    *,
    score_threshold: float,
    overlap: float | None,
    most: int,
) -> dict[str, Tensor]:
    """The detections of one image: boxes (n, 4), scores (n,) and labels (n,), best first.

    Args:
        scores: (n_i, K) of each level, from 0 to 1.
        boxes: (n_i, 4) of each level, x1 y1 x2 y2 in pixels.
        image_size: (height, width), which boxes are cut to.
        score_threshold: lowest score of a detection.
        overlap: of two boxes of a class with a higher IoU, the better one stays; both where None.
        most: number of detections.
    """
    kept = [candidates(*level, score_threshold) for level in zip(scores, boxes, strict=True)]
    score, box, label = (torch.cat(parts) for parts in zip(*kept, strict=True))
    box = clip_boxes_to_image(box, image_size)
    solid = ((box[:, 2] - box[:, 0]) > 0) & ((box[:, 3] - box[:, 1]) > 0)
    score, box, label = score[solid], box[solid], label[solid]
    order = score.argsort(descending=True) if overlap is None else batched_nms(box, score, label, overlap)
    best = order[:most]
    return {"boxes": box[best], "scores": score[best], "labels": label[best]}


def candidates(scores: Tensor, boxes: Tensor, score_threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, boxes and labels of a level's best pairs of cell and class."""
    flat, classes = scores.flatten(), scores.shape[1]
    count = min(CANDIDATES, int((flat >= score_threshold).sum()))
    score, index = flat.topk(count)
    return score, boxes[index // classes], index % classes
