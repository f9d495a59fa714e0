"""A map as a smaller one of cluster centres, and back: no parameters, for models that are trained already.

"Expediting Large-Scale Vision Transformer for Dense Prediction without Fine-tuning" (arXiv 2210.01035).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FORBIDDEN = 1e16
"""Added to the distance of a token to centres it may not belong to."""

BAND = 2
"""Rows of cells whose tokens are compared with centres at once: fewest distances for one, fewest steps for many."""


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
    tokens, bands = features.float(), _bands((features.shape[1], features.shape[2]), clusters, window // 2, features)
    centers = F.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2), clusters).permute(0, 2, 3, 1)
    tokens = tokens[:, bands.tokens].flatten(2, 3)
    for _ in range(iterations):
        near = centers.detach()[:, bands.centers].flatten(2, 3)
        distances = squared_distances(near, tokens.detach()) + bands.forbidden
        weights = (-temperature * distances).softmax(-2) * bands.real
        sums, shares = _apply(weights, tokens), weights.sum(-1, keepdim=True)
        centers = bands.gathered(sums, clusters) / bands.gathered(shares, clusters).clamp(min=1e-16)
    return centers.to(features.dtype)


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
    """(B, ..., N, C) and (B, ..., M, C) -> (B, ..., N, M)."""
    products = _apply(left, right.mT)
    return left.square().sum(-1)[..., None] + right.square().sum(-1)[..., None, :] - 2 * products


def _apply(left: Tensor, right: Tensor) -> Tensor:
    """A matrix product in the precision of its factors, whatever autocast says."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


class _Bands(NamedTuple):
    """A map in N bands of a few rows of cells: the tokens that are at home there, and the rows of centres that they may
    belong to. No other distances are asked for. Where there are few rows in all, everything is one band.

    tokens: (N, m), rows of the map. real: (N, 1, m W), 0 for what fills up bands of fewer rows. centers: (N, n), rows
    of centres. forbidden: (N, n w, m W), what is added to distances.
    """

    tokens: Tensor
    real: Tensor
    centers: Tensor
    forbidden: Tensor

    def gathered(self, parts: Tensor, clusters: tuple[int, int]) -> Tensor:
        """(B, N, n w, C), what each band has for its centres -> (B, h, w, C), their sum."""
        rows, columns = clusters
        parts = parts.unflatten(2, (self.centers.shape[1], columns)).flatten(1, 2)
        empty = parts.new_zeros(parts.shape[0], rows, columns, parts.shape[-1])
        return empty.index_add(1, self.centers.flatten(), parts)


def _bands(size: tuple[int, int], clusters: tuple[int, int], reach: int, like: Tensor) -> _Bands:
    (height, width), (rows, columns) = size, clusters

    def count(length: int) -> Tensor:
        return torch.arange(length, device=like.device)

    cells = BAND if 2 * (BAND + 2 * reach) <= rows else rows
    near, own = min(cells + 2 * reach, rows), count(-(-rows // cells) + 1) * cells
    first = (own.clamp(max=rows) * height + rows - 1) // rows
    tokens = first[:-1, None] + count(-(-cells * height // rows))
    real = (tokens < first[1:, None])[:, None, :, None].expand(-1, 1, -1, width).flatten(2).float()
    tokens = tokens.clamp(max=height - 1)
    centers = (own[:-1] - reach).clamp(0, rows - near)[:, None] + count(near)
    apart_down = (tokens[:, None] * rows // height - centers[:, :, None]).abs() > reach
    apart_across = (count(width) * columns // width - count(columns)[:, None]).abs() > reach
    apart = apart_down[:, :, None, :, None] | apart_across[:, None]
    return _Bands(tokens, real, centers, apart.flatten(3).flatten(1, 2) * FORBIDDEN)
