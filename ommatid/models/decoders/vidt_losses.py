"""What ViDT and ViDT+ learn: arXiv 2110.03921, arXiv 2204.07962."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, box_iou, sigmoid_focal_loss

from ommatid.models.decoders.set_losses import Pairs, focal_loss, pair_up
from ommatid.models.dense import Targets
from ommatid.ops.mask_vectors import cropped, mask_vectors

if TYPE_CHECKING:
    from ommatid.models.decoders.vidt import Step

NOTHING = 0.1
"""Weight of queries that find nothing, in the cross-entropy."""

IOU, VECTOR, LABEL = 2.0, 3.0, 2.0
"""Weights of the terms of ViDT+."""


class Things(NamedTuple):
    """What is in each image: boxes (n, 4) as centre and sides in shares, labels (n,), and masks (n, H, W).

    corners: the same boxes, x1 y1 x2 y2 in pixels. number: of things in all images, at least 1.
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    masks: list[Tensor]
    corners: list[Tensor]
    number: int

    @classmethod
    def of(cls, targets: Targets, image: Tensor) -> Self:
        height, width = image.shape[-2:]
        corners = [target["boxes"].float() for target in targets]
        sides = image.new_tensor([width, height, width, height]).float()
        boxes = [box_convert(each, "xyxy", "cxcywh") / sides for each in corners]
        pairs = zip(targets, corners, strict=True)
        masks = [target["masks"] if "masks" in target else filled(each, height, width) for target, each in pairs]
        labels = [target["labels"].long() for target in targets]
        return cls(boxes, labels, masks, corners, max(sum(map(len, labels)), 1))


def filled(boxes: Tensor, height: int, width: int) -> Tensor:
    """(n, 4) -> (n, H, W) booleans, what is in each box."""
    rows, columns = (torch.arange(side, device=boxes.device) + 0.5 for side in (height, width))
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    down, across = (rows > top) & (rows < bottom), (columns > left) & (columns < right)
    return down[:, :, None] & across[:, None]


def decoder_losses(steps: Sequence[Step], things: Things) -> dict[str, Tensor]:
    """The weighted terms of all steps, by name."""
    sums: dict[str, Tensor] = {}
    for step in steps:
        for name, value in step_losses(step, things).items():
            sums[name] = value + sums.get(name, 0.0)
    return sums


def step_losses(step: Step, things: Things) -> dict[str, Tensor]:
    logits, boxes = step.logits.float(), step.boxes.float()
    pairs = pair_up(logits.detach().sigmoid(), boxes.detach(), things.boxes, things.labels)
    terms = {"classes": focal_loss(logits, pairs, things.number)} | pairs.box_losses(boxes, things.number)
    if step.ious is not None:
        terms["iou"] = iou_loss(pairs.of(step.ious.float())[:, 0], pairs.of(boxes), pairs.boxes, things.number)
    if step.vectors is not None:
        terms["vectors"] = vector_loss(step.vectors.float(), pairs, things)
    return terms


def iou_loss(logits: Tensor, found: Tensor, truth: Tensor, count: int) -> Tensor:
    """Cross-entropy between the overlap that queries expect, (n,), and that of their boxes (n, 4), centre and sides."""
    ours, theirs = (box_convert(boxes, "cxcywh", "xyxy") for boxes in (found.detach(), truth))
    overlap = torch.diag(box_iou(ours, theirs))
    return IOU * F.binary_cross_entropy_with_logits(logits, overlap, reduction="sum") / count


def vector_loss(vectors: Tensor, pairs: Pairs, things: Things) -> Tensor:
    """L1 of the vectors (B, Q, n) of paired queries from those of the masks."""
    if not len(pairs.things):
        return 0.0 * vectors.sum()
    images = range(len(things.masks))
    wanted = [
        mask_vectors(cropped(things.masks[i][chosen], things.corners[i][chosen]), vectors.shape[-1])
        for i in images
        if len(chosen := pairs.things[pairs.images == i])
    ]
    return VECTOR * F.l1_loss(pairs.of(vectors), torch.cat(wanted))


def token_losses(levels: Sequence[Tensor], things: Things) -> dict[str, Tensor]:
    """Focal and dice loss of logits (B, h, w, K) of each map, which are to say how much of each class is in a cell."""
    focal, dice = levels[0].new_zeros(()).float(), levels[0].new_zeros(()).float()
    for logits in levels:
        shares = logits.float().sigmoid()
        wanted = torch.stack(
            [class_shares(*each, logits.shape[1:]) for each in zip(things.masks, things.labels, strict=True)]
        )
        focal = focal + sigmoid_focal_loss(logits.float(), wanted, reduction="sum") / wanted.sum().clamp_min(1.0)
        common, total = (shares * wanted).sum((1, 2)), (shares + wanted).sum((1, 2))
        dice = dice + (1 - (2 * common + 1) / (total + 1)).mean()
    return {"token_focal": LABEL * focal, "token_dice": LABEL * dice}


def class_shares(masks: Tensor, labels: Tensor, shape: Sequence[int]) -> Tensor:
    """(n, H, W) booleans and labels (n,) -> (h, w, K): how much of each cell is of each class; shape is (h, w, K)."""
    rows, columns, classes = shape
    shares = torch.zeros(classes, rows, columns, device=masks.device)
    if len(masks):
        pooled = F.adaptive_avg_pool2d(masks.float(), (rows, columns))
        shares = shares.scatter_reduce(0, labels[:, None, None].expand_as(pooled), pooled, "amax")
    return shares.permute(1, 2, 0)


def plain_losses(logits: Tensor, boxes: Tensor, things: Things) -> dict[str, Tensor]:
    """The weighted terms of queries with logits (B, Q, K + 1), the last for "nothing", and boxes (B, Q, 4)."""
    pairs = pair_up(logits.detach().softmax(-1), boxes.detach(), things.boxes, things.labels)
    nothing = logits.shape[-1] - 1
    wanted = torch.full(logits.shape[:2], nothing, device=logits.device)
    wanted[pairs.images, pairs.queries] = pairs.labels
    weight = torch.ones(nothing + 1, device=logits.device)
    weight[nothing] = NOTHING
    classes = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight)
    return {"classes": classes} | pairs.box_losses(boxes, things.number)
