"""What queries that each find one box learn: every box by the query that it is cheapest to pair it with.

DETR (arXiv 2005.12872), with the costs and weights of Deformable DETR (arXiv 2010.04159).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou
from torchvision.ops import sigmoid_focal_loss as focal

from ommatid.ops.matching import hungarian

CLASS, BOX, OVERLAP = 2.0, 5.0, 2.0
"""Weights of the terms, in the costs of pairs and in the loss."""


class Pairs(NamedTuple):
    """Which query of which image finds which thing, n pairs together.

    images, queries, things: (n,) numbers, of things within their image. boxes: (n, 4), of the things, centre and sides.
    labels: (n,).
    """

    images: Tensor
    queries: Tensor
    things: Tensor
    boxes: Tensor
    labels: Tensor

    def of(self, values: Tensor) -> Tensor:
        """(B, Q, ...) -> (n, ...), what the paired queries say."""
        return values[self.images, self.queries]

    def box_losses(self, found: Tensor, count: int) -> dict[str, Tensor]:
        """Of boxes (B, Q, 4), as `box_losses`."""
        return box_losses(self.of(found), self.boxes, count)


def pair_up(shares: Tensor, found: Tensor, truths: Sequence[Tensor], labels: Sequence[Tensor]) -> Pairs:
    """The cheapest pairs of each image.

    Args:
        shares: (B, Q, K), from 0 to 1, how sure each query is of each class.
        found: (B, Q, 4), centre and sides.
        truths: (n_i, 4) of each image. labels: (n_i,).
    """
    rows, columns = [], []
    for share, boxes, truth, label in zip(shares, found, truths, labels, strict=True):
        queries, things = hungarian(pair_costs(share, boxes, truth, label))
        rows.append(queries)
        columns.append(things)
    image = torch.cat([torch.full_like(queries, index) for index, queries in enumerate(rows)])
    boxes = torch.cat([truth[things] for truth, things in zip(truths, columns, strict=True)])
    kinds = torch.cat([label[things] for label, things in zip(labels, columns, strict=True)])
    return Pairs(image, torch.cat(rows), torch.cat(columns), boxes, kinds)


def focal_loss(class_logits: Tensor, pairs: Pairs, count: int) -> Tensor:
    """Weighted, of logits (B, Q, K): 1 for the label of a paired query's thing, 0 for all others."""
    wanted = torch.zeros_like(class_logits)
    wanted[pairs.images, pairs.queries, pairs.labels] = 1.0
    return CLASS * focal(class_logits, wanted, reduction="sum") / count


def box_losses(found: Tensor, truth: Tensor, count: int) -> dict[str, Tensor]:
    """Weighted terms of boxes (n, 4), centre and sides."""
    ours, theirs = (box_convert(boxes, "cxcywh", "xyxy") for boxes in (found, truth))
    overlap = torch.diag(generalized_box_iou(ours, theirs))
    return {
        "boxes": BOX * F.l1_loss(found, truth, reduction="sum") / count,
        "overlap": OVERLAP * (1 - overlap).sum() / count,
    }


@torch.no_grad()
def pair_costs(shares: Tensor, found: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """(Q, n): what it costs to pair each query of an image with each of its n boxes."""
    overlap = generalized_box_iou(box_convert(found, "cxcywh", "xyxy"), box_convert(boxes, "cxcywh", "xyxy"))
    return CLASS * class_costs(shares, labels) + BOX * torch.cdist(found, boxes, p=1) - OVERLAP * overlap


def class_costs(shares: Tensor, labels: Tensor) -> Tensor:
    """(Q, K), from 0 to 1 -> (Q, n): the focal loss of each label, were it right, less what it is if wrong."""
    share = shares[:, labels]
    hit = 0.25 * (1 - share) ** 2 * -(share + 1e-8).log()
    miss = 0.75 * share**2 * -(1 - share + 1e-8).log()
    return hit - miss
