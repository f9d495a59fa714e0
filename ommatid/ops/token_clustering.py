"""A map as a smaller one of cluster centres, and back: no parameters, for models that are trained already.

"Expediting Large-Scale Vision Transformer for Dense Prediction without Fine-tuning" (arXiv 2210.01035).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FORBIDDEN = 1e16
"""Added to the distance of a token to centres it may not belong to."""


def cluster(
    features: Tensor, clusters: tuple[int, int], *, iterations: int = 5, temperature: float = 0.01, window: int = 5
) -> Tensor:
    """Soft k-means around a grid of seeds: (B, H, W, C) -> centres (B, h, w, C).

    Args:
        features: the map.
        clusters: (h, w).
        iterations: of assigning tokens to centres and moving the centres; only the last one's mean has a gradient.
        temperature: of the softmax over centres, of minus the squared distance.
        window: side of the square of centres, around its own cell, that a token may belong to; odd.
    """
    tokens, size = features.flatten(1, 2).float(), (features.shape[1], features.shape[2])
    centers = F.adaptive_avg_pool2d(features.permute(0, 3, 1, 2).float(), clusters).flatten(2).mT
    mask = _forbidden(size, clusters, window // 2, features.device)
    for _ in range(iterations):
        distances = squared_distances(centers.detach(), tokens.detach()) + mask
        weights = (-temperature * distances).softmax(1)
        centers = _apply(weights, tokens) / weights.sum(-1, keepdim=True).clamp(min=1e-16)
    return centers.to(features.dtype).unflatten(1, clusters)


def nearest_center(features: Tensor, centers: Tensor) -> Tensor:
    """(B, H, W, C) and centres (B, h, w, C) -> (B, H W): the number of the nearest centre, wherever it is."""
    return squared_distances(centers.flatten(1, 2).float(), features.flatten(1, 2).float()).argmin(1)


def reconstruct(features: Tensor, centers: Tensor, x: Tensor, *, k: int = 20, temperature: float = 0.01) -> Tensor:
    """Gives every token what became of the centres that it was near to.

    Args:
        features: (B, L, C), the tokens before they were clustered.
        centers: (B, L', C), the centres just after.
        x: (B, L', D), the centres after whatever read them.
        k: centres that a token is made of, and all that are as near as the last of them; at most L'.
        temperature: of the weights, exp of minus the squared distance.

    Returns:
        (B, L, D). As published, the weights have the L2 norm 1, not the sum 1: the result is up to sqrt(k) times as
        large as x.
    """
    with torch.autocast(features.device.type, enabled=False):
        distances = squared_distances(features.float(), centers.float()).clamp(min=0)
        weights = torch.exp(-temperature * distances)
        threshold = weights.topk(k, dim=-1).values[..., -1:]
        kept = torch.where(weights >= threshold, weights, 0.0)
        return (F.normalize(kept, dim=-1) @ x.float()).to(x.dtype)


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """(B, N, C) and (B, M, C) -> (B, N, M)."""
    products = _apply(left, right.mT)
    return left.square().sum(-1)[..., None] + right.square().sum(-1)[:, None] - 2 * products


def _apply(left: Tensor, right: Tensor) -> Tensor:
    """A matrix product in the precision of its factors, whatever autocast says."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def _forbidden(size: tuple[int, int], clusters: tuple[int, int], reach: int, device: torch.device) -> Tensor:
    """(h w, H W): what is added to the distance of each centre and token."""
    rows, columns = (
        (torch.arange(many, device=device)[:, None] - torch.arange(side, device=device) * many // side).abs() > reach
        for side, many in zip(size, clusters, strict=True)
    )
    apart = rows[:, None, :, None] | columns[None, :, None, :]
    return apart.flatten(2).flatten(0, 1) * FORBIDDEN
