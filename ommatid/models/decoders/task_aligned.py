"""Which cells of a pyramid a thing is learned by: those whose class and box are right together, already.

"TOOD: Task-aligned One-stage Object Detection" (arXiv 2108.07755), in the form of the YOLO family: with the complete
IoU of "Distance-IoU Loss" (arXiv 1911.08287), and distances to the edges as distributions, as in "Generalized Focal
Loss" (arXiv 2006.04388).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, complete_box_iou_loss

from ommatid.models.decoders.one_stage import edges_from

CLASS, BOX, DISTRIBUTION = 0.5, 7.5, 1.5
"""Weights of the terms of the loss."""

CELLS = 10
"""Cells that learn a thing, at most."""

SCORE_POWER, OVERLAP_POWER = 0.5, 6.0


@torch.no_grad()
def task_aligned(
    scores: Tensor, boxes: Tensor, centres: Tensor, things: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """How sure each cell should be of each class, and the box that it should find.

    Args:
        scores: (N, K) of the cells, from 0 to 1.
        boxes: (N, 4) of the cells, x1 y1 x2 y2.
        centres: (N, 2) of the cells, x y.
        things: (n, 4), as the boxes. labels: (n,). n may be 0.

    Returns:
        (N, K) from 0 to 1, all 0 for a cell that is to find nothing; and (N, 4).
    """
    wanted = torch.zeros_like(scores)
    if not len(things):
        return wanted, torch.zeros_like(boxes)
    inside = edges_from(centres, things).amin(-1) > 0
    overlap = box_iou(boxes, things) * inside
    aligned = scores[:, labels] ** SCORE_POWER * overlap**OVERLAP_POWER
    best = torch.zeros_like(inside)
    best.scatter_(0, aligned.topk(min(CELLS, len(aligned)), dim=0).indices, value=True)
    chosen = best & inside
    thing = torch.where(chosen, overlap, -1.0).argmax(1)
    mine = chosen & F.one_hot(thing, len(things)).bool()
    aligned, overlap = aligned * mine, overlap * mine
    sure = aligned / aligned.amax(0).clamp_min(1e-9) * overlap.amax(0)
    cells = mine.any(1)
    wanted[cells, labels[thing[cells]]] = sure.amax(1)[cells]
    return wanted, things[thing]


def box_losses(boxes: Tensor, things: Tensor, bins: Tensor, distances: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """The weighted terms of n cells that have a thing each, not yet over the sum of all weights.

    Args:
        boxes, things: (n, 4), x1 y1 x2 y2.
        bins: (n, 4, R) logits of the distances to the four edges.
        distances: (n, 4), the true ones, in steps of the bins.
        weights: (n,), how sure the cells should be.
    """
    within = distances.clamp(0, bins.shape[-1] - 1 - 1e-2)
    below = within.floor()
    share, log_bins = within - below, bins.log_softmax(-1)
    lower, upper = (log_bins.gather(-1, (below.long() + step)[..., None])[..., 0] for step in (0, 1))
    likeness = -(lower * (1 - share) + upper * share).mean(-1)
    return {
        "boxes": BOX * (complete_box_iou_loss(boxes, things) * weights).sum(),
        "distribution": DISTRIBUTION * (likeness * weights).sum(),
    }
