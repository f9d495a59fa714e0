"""What mask transformers learn from: every mask of a scene is paired with the query that fits it best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.models.decoders.masked_attention import Prediction
from ommatid.models.dense import Targets
from ommatid.ops.matching import hungarian
from ommatid.ops.point_sample import point_sample, uncertain_points

CLASS, MASK, DICE = 2.0, 5.0, 5.0
"""Weights of the terms, in the costs of pairs and in the loss."""

NOTHING = 0.1
"""Weight of the queries that are paired with no mask, in the loss of the classes."""


def mask_losses(
    predictions: Sequence[Prediction], targets: Targets, size: tuple[int, int], points: int
) -> dict[str, Tensor]:
    """Losses of classes and masks, summed over all predictions of a model, each paired by itself.

    As in Mask2Former (arXiv 2112.01527): masks are compared at random points, most of them where they are uncertain.

    Args:
        predictions: class logits (B, Q, K + 1) and mask logits (B, Q, h, w) each; sizes may differ.
        targets: labels (n,) and masks (n, H, W) of each image.
        size: (height, width) of the image that the mask logits cover, at least (H, W).
        points: number of points of a mask.
    """
    truths = [padded(target["masks"], size) for target in targets]
    count = max(sum(len(masks) for masks in truths), 1)
    terms = [one_prediction(prediction, targets, truths, count, points) for prediction in predictions]
    return {name: sum(term[name] for term in terms[1:]) + terms[0][name] for name in terms[0]}


def padded(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (n, H, W) as floats, with zeros at the bottom and right up to `size`."""
    return F.pad(masks.float(), (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1]))


def one_prediction(
    prediction: Prediction, targets: Targets, truths: Sequence[Tensor], count: int, points: int
) -> dict[str, Tensor]:
    """The weighted terms of one prediction; `count` masks share the loss of masks."""
    class_logits, mask_logits = (part.float() for part in prediction)
    kinds = class_logits.shape[-1] - 1
    wanted = torch.full(class_logits.shape[:2], kinds, dtype=torch.long, device=class_logits.device)
    chosen, true = [], []
    for index, (target, masks) in enumerate(zip(targets, truths, strict=True)):
        rows, columns = hungarian(pair_costs(class_logits[index], mask_logits[index], target["labels"], masks, points))
        wanted[index, rows] = target["labels"][columns].long()
        chosen.append(mask_logits[index, rows])
        true.append(masks[columns])
    weight = class_logits.new_tensor([*[1.0] * kinds, NOTHING])
    logits, masks = torch.cat(chosen), torch.cat(true)
    place = uncertain_points(logits, points)
    seen, truth = point_sample(logits, place), point_sample(masks, place)
    return {
        "classes": CLASS * F.cross_entropy(class_logits.transpose(1, 2), wanted, weight),
        "masks": MASK * F.binary_cross_entropy_with_logits(seen, truth, reduction="none").mean(1).sum() / count,
        "dice": DICE * dice(seen.sigmoid(), truth).sum() / count,
    }


def dice(shares: Tensor, truth: Tensor) -> Tensor:
    """(n, P) from 0 to 1, twice -> (n,): 0 where they agree, 1 where they share nothing."""
    return 1 - (2 * (shares * truth).sum(-1) + 1) / (shares.sum(-1) + truth.sum(-1) + 1)


@torch.no_grad()
def pair_costs(class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor, points: int) -> Tensor:
    """(Q, n): what it costs to pair each query of an image with each of its n masks, at the same points for all."""
    place = torch.rand(1, points, 2, device=masks.device)
    seen = point_sample(mask_logits, place.expand(len(mask_logits), -1, -1))
    truth = point_sample(masks, place.expand(len(masks), -1, -1))
    share = seen.sigmoid()
    inside, outside = F.softplus(-seen) @ truth.T, F.softplus(seen) @ (1 - truth).T
    overlap = (2 * share @ truth.T + 1) / (share.sum(-1)[:, None] + truth.sum(-1) + 1)
    return (
        -CLASS * class_logits.softmax(-1)[:, labels.long()] + MASK * (inside + outside) / points + DICE * (1 - overlap)
    )
