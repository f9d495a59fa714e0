"""How alike two representations of the same samples are, whatever their widths."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Centred kernel alignment with linear kernels (arXiv 1905.00414): (..., n, p) and (..., n, q) -> (...), in [0, 1].

    1 where one is the other, moved, turned or scaled as a whole. Biased: with few samples for many features it is high.
    """
    x, y = x - x.mean(-2, keepdim=True), y - y.mean(-2, keepdim=True)
    gram_x, gram_y = x @ x.mT, y @ y.mT
    norms = gram_x.square().sum((-2, -1)).sqrt() * gram_y.square().sum((-2, -1)).sqrt()
    return (gram_x * gram_y).sum((-2, -1)) / norms


def rsa(x: Tensor, y: Tensor) -> Tensor:
    """Representational similarity analysis: (..., n, p) and (..., n, q) -> (...), in [-1, 1].

    The correlation between the cosines of all pairs of samples in one and in the other.
    """
    return F.cosine_similarity(_centred_cosines(x), _centred_cosines(y), dim=-1)


def _centred_cosines(features: Tensor) -> Tensor:
    """(..., n, p) -> (..., n n), less their mean."""
    directions = F.normalize(features, dim=-1)
    cosines = (directions @ directions.mT).flatten(-2)
    return cosines - cosines.mean(-1, keepdim=True)
