"""Which detections are right: each by the thing of its class that it overlaps most, best first, as COCO counts them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

OVERLAP = 0.5
"""IoU from which on a box is that of a thing."""


def right_ones(found: dict[str, Tensor], truth: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(n,) bool each: detections, best first, that are right; and those that count, because no crowd covers them."""
    things = ~truth["crowd"]
    overlaps = box_iou(found["boxes"], truth["boxes"])
    overlaps = overlaps * (found["labels"][:, None] == truth["labels"])
    right = torch.zeros(len(overlaps), dtype=torch.bool)
    free = things.clone()
    for index, row in enumerate(overlaps):
        best = int((row * free).argmax()) if len(row) else -1
        if best >= 0 and free[best] and row[best] >= OVERLAP:
            right[index], free[best] = True, False
    crowded = _shares(found["boxes"], truth["boxes"][truth["crowd"]]).amax(-1, keepdim=False) >= OVERLAP
    return right, right | ~crowded


def _shares(boxes: Tensor, crowds: Tensor) -> Tensor:
    """(n, m + 1): how much of each box lies in each crowd; the last is 0."""
    corner, end = torch.maximum(boxes[:, None, :2], crowds[:, :2]), torch.minimum(boxes[:, None, 2:], crowds[:, 2:])
    inside = (end - corner).clamp_min(0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1, keepdim=True).clamp_min(1e-9)
    return torch.cat([inside / areas, inside.new_zeros(len(boxes), 1)], dim=1)
