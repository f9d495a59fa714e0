"""What MonoDETR learns (arXiv 2203.13310): boxes in the image, and what they are of in space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou

from ommatid.models.decoders.monodetr_depth import bin_of
from ommatid.models.decoders.set_losses import Pairs, class_costs, focal_loss
from ommatid.ops.matching import hungarian

if TYPE_CHECKING:
    from ommatid.models.decoders.monodetr import Answer

CLASS, CENTRE, SIDES, OVERLAP = 2.0, 10.0, 5.0, 2.0
"""Weights of the terms, in the costs of pairs and in the loss; those of depth, size and heading are 1."""

HEADING_BINS = 12
FOREGROUND = 13.0
"""Weight of the cells in a box, in the loss of the depth map; 1 elsewhere."""

SpaceTargets = Sequence[dict[str, Tensor]]
"""For each image, of its n things:

    labels            (n,) integers
    boxes             (n, 6), the projected centre (x, y) and the distances from it to the left, right, top and bottom
                      of the box, as shares of the image
    depth             (n,) metres
    sizes             (n, 3) height, width and length in metres, above 0
    heading_bin       (n,) integers below 12
    heading_residual  (n,) radians
"""


def depth_loss(depth: Tensor, target: Tensor) -> Tensor:
    """(n,) of depths (n, 2), metres and the logarithm of their deviation: the likelihood of Laplace's distribution."""
    metres, spread = depth.unbind(-1)
    return 1.4142 * torch.exp(-spread) * (metres - target).abs() + spread


def size_loss(sizes: Tensor, target: Tensor) -> Tensor:
    """(n, 3): errors relative to the true size, weighted so that their mean is that of the errors."""
    error = (sizes - target).abs()
    relative = error / target
    weight = error.detach().mean() / relative.detach().mean().clamp_min(1e-12)
    return relative * weight


def heading_loss(heading: Tensor, bins: Tensor, residual: Tensor) -> Tensor:
    """(n,) of headings (n, 24), logits of the bins and the residual in each: cross-entropy, and L1 in the true bin."""
    logits, residuals = heading.split(HEADING_BINS, dim=-1)
    chosen = residuals.gather(-1, bins[:, None])[:, 0]
    return F.cross_entropy(logits, bins, reduction="none") + (chosen - residual).abs()


def depth_map_loss(
    logits: Tensor, corners: Sequence[Tensor], depths: Sequence[Tensor], *, least: float, most: float
) -> Tensor:
    """Focal loss of the depth of cells, which is that of the nearest thing in whose box they are.

    Args:
        logits: (B, h, w, bins + 1), the last bin for "nothing".
        corners: (n, 4) of each image, x1 y1 x2 y2 in cells.
        depths: (n,) of each image, in metres.
        least, most: of the bins, in metres.
    """
    size, bins = (logits.shape[1], logits.shape[2]), logits.shape[-1] - 1
    painted = torch.stack([nearest_depths(*each, size) for each in zip(corners, depths, strict=True)])
    inside = painted.isfinite()
    target = bin_of(torch.where(inside, painted, 0.0), bins, least, most)
    log_shares = logits.float().log_softmax(-1)
    wanted = F.one_hot(target, bins + 1) + 1e-6
    focal = (wanted * 0.25 * (1 - log_shares.exp()) ** 2 * -log_shares).sum(-1)
    return (focal * torch.where(inside, FOREGROUND, 1.0)).sum() / focal.numel()


def nearest_depths(corners: Tensor, depths: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, 4) in cells and (n,) -> (h, w): the least depth of the boxes that a cell is in; infinite where in none."""
    rows, columns = (torch.arange(side, device=corners.device) for side in size)
    left, top = corners[:, :2].floor().T[:, :, None]
    right, bottom = corners[:, 2:].ceil().T[:, :, None]
    down, across = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    inside = down[:, :, None] & across[:, None]
    whole = torch.where(inside, depths[:, None, None], math.inf)
    return torch.cat([whole, whole.new_full((1, *size), math.inf)]).amin(0)


def corners_of(boxes: Tensor) -> Tensor:
    """(..., 6), centre and distances to left, right, top and bottom -> (..., 4), x1 y1 x2 y2."""
    x, y, left, right, top, bottom = boxes.unbind(-1)
    return torch.stack([x - left, y - top, x + right, y + bottom], dim=-1)


@torch.no_grad()
def pair_costs(shares: Tensor, found: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """(Q, n): what it costs to pair each query, (Q, K) and (Q, 6), with each thing, (n, 6) and (n,)."""
    centre = torch.cdist(found[:, :2], boxes[:, :2], p=1)
    sides = torch.cdist(found[:, 2:], boxes[:, 2:], p=1)
    overlap = generalized_box_iou(corners_of(found), corners_of(boxes))
    return CLASS * class_costs(shares, labels) + CENTRE * centre + SIDES * sides - OVERLAP * overlap


def pair_up(answer: Answer, targets: SpaceTargets, groups: int) -> Pairs:
    """The cheapest pairs, of each of the groups of queries by itself: every thing is in as many pairs."""
    images, queries, things = [], [], []
    shares, found = answer.logits.detach().float().sigmoid(), answer.boxes.detach().float()
    members = shares.shape[1] // groups
    for image, target in enumerate(targets):
        costs = pair_costs(shares[image], found[image], target["boxes"].float(), target["labels"].long())
        for group, cost in enumerate(costs.split(members)):
            rows, columns = hungarian(cost)
            images.append(torch.full_like(rows, image))
            queries.append(rows + group * members)
            things.append(columns)
    index, thing = torch.cat(images), torch.cat(things)
    boxes = _of_pairs(targets, "boxes", index, thing)
    return Pairs(index, torch.cat(queries), thing, boxes, _of_pairs(targets, "labels", index, thing).long())


def _of_pairs(targets: SpaceTargets, name: str, images: Tensor, things: Tensor) -> Tensor:
    """What the targets say by this name, of the thing of each pair."""
    counts = torch.tensor([0, *(len(target["labels"]) for target in targets[:-1])], device=things.device)
    return torch.cat([target[name] for target in targets])[counts.cumsum(0)[images] + things]


def answer_losses(answer: Answer, targets: SpaceTargets, groups: int) -> dict[str, Tensor]:
    """The weighted terms of one layer, by name."""
    pairs = pair_up(answer, targets, groups)
    count = max(sum(len(target["labels"]) for target in targets), 1) * groups
    found = pairs.of(answer.boxes.float())
    error = (found - pairs.boxes.float()).abs()
    overlap = torch.diag(generalized_box_iou(corners_of(found), corners_of(pairs.boxes.float())))
    depth, sizes, bins, residual = (
        _of_pairs(targets, name, pairs.images, pairs.things)
        for name in ("depth", "sizes", "heading_bin", "heading_residual")
    )
    return {
        "classes": focal_loss(answer.logits.float(), pairs, count),
        "centre": CENTRE * error[:, :2].sum() / count,
        "sides": SIDES * error[:, 2:].sum() / count,
        "overlap": OVERLAP * (1 - overlap).sum() / count,
        "depth": depth_loss(pairs.of(answer.depth.float()), depth).sum() / count,
        "sizes": size_loss(pairs.of(answer.sizes.float()), sizes).sum() / count,
        "heading": heading_loss(pairs.of(answer.heading.float()), bins.long(), residual).sum() / count,
    }
