"""Spherical k-means one batch at a time: directions of tokens, centroids for each head, and how these follow.

As in "Efficient Content-Based Sparse Attention with Routing Transformers" (arXiv 2003.05997). Tokens are
(B, heads, N, d), centroids (heads, K, d); tokens are normed here, centroids are taken as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.ops.precision import precise


@torch.no_grad()
def centroid_scores(tokens: Tensor, centroids: Tensor) -> Tensor:
    """Products of the tokens' directions with all centroids, without gradient: (B, heads, N, K)."""
    with torch.autocast(tokens.device.type, enabled=False):
        return F.normalize(precise(tokens), dim=-1) @ centroids.mT


def balanced_members(scores: Tensor, size: int) -> Tensor:
    """For each centroid its `size` best tokens, or all if fewer: (B, heads, N, K) -> (B, heads, K, n).

    Numbers of tokens in ascending order. A token may be with several centroids or with none.
    """
    return scores.mT.topk(min(size, scores.shape[2]), dim=-1, sorted=False).indices.sort(dim=-1).values


@torch.no_grad()
def batch_centroids(tokens: Tensor, centroids: Tensor) -> Tensor:
    """The mean direction of all tokens nearest to a centroid, itself if there are none: (heads, K, d)."""
    nearest = F.one_hot(centroid_scores(tokens, centroids).argmax(-1), centroids.shape[1]).to(centroids.dtype)
    with torch.autocast(tokens.device.type, enabled=False):
        sums = torch.einsum("bhnk,bhnd->hkd", nearest, F.normalize(precise(tokens), dim=-1))
    chosen = nearest.sum((0, 2)).unsqueeze(-1) > 0
    return torch.where(chosen, F.normalize(sums, dim=-1), centroids)


def moved_centroids(centroids: Tensor, towards: Tensor, decay: float) -> Tensor:
    """An exponential moving average, not normed again."""
    return torch.lerp(towards, centroids, decay)


def commitment_loss(tokens: Tensor, centroids: Tensor, scores: Tensor) -> Tensor:
    """The mean squared distance of directions to their nearest centroids, by which tokens alone learn.

    `scores` are those of the tokens, (B, heads, N, K).
    """
    heads = torch.arange(centroids.shape[0], device=centroids.device)[:, None]
    return F.mse_loss(F.normalize(precise(tokens), dim=-1), centroids[heads, scores.argmax(-1)])
