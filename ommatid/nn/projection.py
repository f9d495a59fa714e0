"""Projections to queries, keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UnbiasedKeyProjection(nn.Linear):
    """The joint query, key and value projection, with biases for queries and values: (..., C) -> (..., 3 C).

    A bias of keys would add the same to all scores of a query. From BEiT (arXiv 2106.08254).
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 3 * dim, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(dim))
        self.value_bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        return F.linear(x, self.weight, bias)
