"""Self-training on mixed pictures: half of the classes of one with labels, pasted over one without.

DAFormer (arXiv 2111.14887), after "DACS: Domain Adaptation via Cross-domain Mixed Sampling" (arXiv 2007.08702).
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

IGNORED = 255


class Mixed(NamedTuple):
    """image (B, C, H, W); label and weight (B, H, W): a class for every pixel, and how much it counts."""

    image: Tensor
    label: Tensor
    weight: Tensor


def pseudo_labels(
    logits: Tensor, *, threshold: float = 0.968, ignore_top: int = 15, ignore_bottom: int = 120
) -> tuple[Tensor, Tensor]:
    """What a teacher says of pictures, and how much it counts: (B, K, H, W) -> (B, H, W), (B, H, W).

    All pixels of a batch count alike, as much as it has sure pixels: the share of those with a probability of at least
    the threshold. Rows at the top and bottom, where cameras see their own vehicle, do not count.
    """
    probability, label = logits.softmax(1).max(1)
    weight = (probability >= threshold).float().mean().expand(label.shape).clone()
    weight[:, :ignore_top] = 0
    weight[:, label.shape[1] - ignore_bottom :] = 0
    return label, weight


def class_mask(label: Tensor, noise: Tensor) -> Tensor:
    """Where each image has one of half of the classes: (B, 1, H, W) -> (B, 1, H, W) bool.

    Args:
        label: classes, 255 also being one.
        noise: (B, n) or wider, n being the number of classes in the whole batch: of each image those with the lowest
            numbers are chosen, n / 2, rounded up. An image need not have them.
    """
    classes = label.unique()
    chosen = noise[:, : len(classes)].argsort(dim=1)[:, : -(-len(classes) // 2)]
    wanted = classes[chosen]
    return (label[..., None] == wanted[:, None, None, None]).any(-1)


def mixed_pictures(
    mask: Tensor, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], target_weight: Tensor
) -> Mixed:
    """Pictures of the source where the mask is true, of the target elsewhere.

    Args:
        mask: (B, 1, H, W) bool.
        source, target: images (B, C, H, W) and labels (B, H, W).
        target_weight: (B, H, W); the source's pixels count 1.
    """
    inside = mask.squeeze(1)
    image = source[0].where(mask, target[0])
    return Mixed(image, source[1].where(inside, target[1]), target_weight.where(~inside, 1.0))


def weighted_cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy by pixel, in the mean over all of them: those of 255 cost nothing, but count in the mean.

    Args:
        logits: (B, K, h, w), enlarged to the label's size.
        label: (B, H, W). weight: (B, H, W); 1 where None.
    """
    enlarged = F.interpolate(logits, size=label.shape[1:], mode="bilinear", align_corners=False)
    by_pixel = F.cross_entropy(enlarged, label.long(), ignore_index=IGNORED, reduction="none")
    return (by_pixel if weight is None else weight * by_pixel).mean()
