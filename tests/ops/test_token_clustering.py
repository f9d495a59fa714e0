"""Clustering in bands gives what clustering by all distances gives, on maps that cells do not divide too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ommatid.ops.token_clustering import cluster


def by_all_distances(features: Tensor, clusters: tuple[int, int], window: int) -> Tensor:
    """The definition, with the distance of every token to every centre: (B, H, W, C) -> (B, h, w, C)."""
    (height, width), (rows, columns) = features.shape[1:3], clusters
    tokens = features.flatten(1, 2)
    centers = torch.nn.functional.adaptive_avg_pool2d(features.permute(0, 3, 1, 2), clusters).flatten(2).mT
    down = torch.arange(rows)[:, None] - torch.arange(height) * rows // height
    across = torch.arange(columns)[:, None] - torch.arange(width) * columns // width
    far = (down.abs() > window // 2)[:, None, :, None] | (across.abs() > window // 2)[None, :, None]
    for _ in range(5):
        distances = torch.cdist(centers, tokens).square() + 1e16 * far.flatten(2).flatten(0, 1)
        weights = (-0.01 * distances).softmax(1)
        centers = weights @ tokens / weights.sum(-1, keepdim=True)
    return centers.unflatten(1, clusters)


@pytest.mark.parametrize(
    ("size", "clusters"),
    [
        ((12, 16), (6, 8)),
        ((23, 31), (9, 13)),
        ((9, 7), (9, 7)),
        ((14, 5), (3, 2)),
        ((6, 6), (1, 1)),
        ((30, 41), (17, 23)),
        ((26, 9), (13, 4)),
    ],
)
@pytest.mark.parametrize("window", [1, 3, 5])
def test_bands_give_what_all_distances_give(size: tuple[int, int], clusters: tuple[int, int], window: int) -> None:
    features = 3 * torch.randn(2, *size, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = cluster(features.float(), clusters, window=window)
    torch.testing.assert_close(found, by_all_distances(features, clusters, window).float(), rtol=1e-4, atol=1e-4)
