"""From what queries say to things in space: the last step of MonoDETR (arXiv 2203.13310)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ommatid.models.decoders.monodetr_losses import HEADING_BINS, corners_of

SCORE = 0.2
"""Of the least sure thing that is told of."""


def detections(outputs: dict[str, Tensor], top_k: int) -> Tensor:
    """The surest pairs of query and class: (B, top_k, 37), best first.

    Of each: class, score; centre and sides of the box, as shares of the image; depth in metres; 24 numbers of the
    heading; height, width and length, in metres; the projected centre, as shares; how sure the depth is, from the
    logarithm of its deviation.

    Args:
        outputs: logits (B, Q, K), boxes (B, Q, 6), dims (B, Q, 3), depth (B, Q, 2) and angle (B, Q, 24), of `MonoDETR`.
        top_k: up to Q K.
    """
    scores, index = outputs["logits"].float().sigmoid().flatten(1).topk(top_k)
    classes = outputs["logits"].shape[-1]
    corners = corners_of(outputs["boxes"])
    boxes = torch.cat([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], dim=-1)
    metres, spread = outputs["depth"].split(1, dim=-1)
    parts = [boxes, metres, outputs["angle"], outputs["dims"], outputs["boxes"][..., :2], torch.exp(-spread)]
    told = torch.cat(parts, dim=-1)
    chosen = told.gather(1, (index // classes)[..., None].expand(-1, -1, told.shape[-1]))
    return torch.cat([(index % classes).to(told.dtype)[..., None], scores[..., None], chosen], dim=-1)


def things(
    found: Tensor,
    projection: Tensor,
    image_size: tuple[int, int],
    mean_sizes: Tensor,
    *,
    score_threshold: float = SCORE,
) -> dict[str, Tensor]:
    """The things of one image, in the coordinates of the camera: x to the right, y down, z away from it, in metres.

    Args:
        found: (n, 37), what `detections` gives.
        projection: (3, 4), from homogeneous coordinates to pixels.
        image_size: (height, width) in pixels.
        mean_sizes: (K, 3), height, width and length that the sizes of each class are counted from.
        score_threshold: least score, before it is multiplied by how sure the depth is.

    Returns:
        labels (m,), scores (m,), boxes (m, 4) as x1 y1 x2 y2 in pixels, sizes (m, 3), locations (m, 3) of the middle of
        the bottom, alpha (m,) and rotation (m,) about y, in radians from -pi to pi.
    """
    found = found[found[:, 1] >= score_threshold]
    labels = found[:, 0].long()
    height, width = image_size
    pixels = found.new_tensor([width, height])
    centre, half = found[:, 2:4] * pixels, found[:, 4:6] * pixels / 2
    metres, heading, sizes = found[:, 6], found[:, 7:31], found[:, 31:34] + mean_sizes[labels]
    locations = unprojected(found[:, 34:36] * pixels, metres, projection)
    locations[:, 1] += sizes[:, 0] / 2
    alpha = angle_of(heading)
    rotation = wrapped(alpha + torch.atan2(centre[:, 0] - projection[0, 2], projection[0, 0].expand_as(alpha)))
    return {
        "labels": labels,
        "scores": found[:, 1] * found[:, 36],
        "boxes": torch.cat([centre - half, centre + half], dim=-1),
        "sizes": sizes,
        "locations": locations,
        "alpha": alpha,
        "rotation": rotation,
    }


def unprojected(pixels: Tensor, metres: Tensor, projection: Tensor) -> Tensor:
    """Pixels (n, 2) at depths (n,) -> (n, 3), where the projection (3, 4) has them from."""
    focal, middle, shift = projection.diagonal()[:2], projection[:2, 2], projection[:2, 3]
    across = ((pixels - middle) * metres[:, None] - shift) / focal
    return torch.cat([across, metres[:, None]], dim=-1)


def angle_of(heading: Tensor) -> Tensor:
    """(n, 24), logits of the bins and the residual in each -> (n,) from -pi to pi."""
    logits, residuals = heading.split(HEADING_BINS, dim=-1)
    bins = logits.argmax(-1)
    return wrapped(bins * (2 * math.pi / HEADING_BINS) + residuals.gather(-1, bins[:, None])[:, 0])


def wrapped(angle: Tensor) -> Tensor:
    """Less or more by whole turns, so that it is from -pi to pi."""
    return angle - 2 * math.pi * ((angle + math.pi) / (2 * math.pi)).floor()
