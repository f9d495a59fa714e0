"""Relative positions without a vector for every pair: one product with the table of distances, then a shift by rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def backward_scores(query: Tensor, embeddings: Tensor) -> Tensor:
    """q_i . e_(i-j) for every key j <= i, and 0 for later ones: (..., N, d) and (L, d) -> (..., N, N).

    Music Transformer (arXiv 1809.04281). Cost: N^2 d multiply-adds; memory N d for the table, not N^2 d.

    Args:
        query: q.
        embeddings: of distances, the last row that of 0, the one before it that of 1; L >= N.

    Raises:
        ValueError: there are more queries than embeddings.
    """
    count = query.shape[-2]
    if count > len(embeddings):
        raise ValueError(f"number of tokens = {count} is not possible: allowed is at most {len(embeddings)}")
    products = query @ embeddings[len(embeddings) - count :].T
    # With a column in front, rows that are one shorter begin one product later each; what wraps around lies above.
    return F.pad(products, (1, 0)).flatten(-2).unflatten(-1, (count + 1, count))[..., 1:, :].tril()


def backward_scores_reference(query: Tensor, embeddings: Tensor) -> Tensor:
    """`backward_scores` by its definition, with a vector for every pair."""
    place = torch.arange(query.shape[-2], device=query.device)
    distance = place[:, None] - place
    vectors = embeddings[(len(embeddings) - 1 - distance).clamp(max=len(embeddings) - 1)]
    return torch.einsum("...id,ijd->...ij", query, vectors).masked_fill(distance < 0, 0)
