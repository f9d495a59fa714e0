"""Features whose products are the exponential function of attention, as far as its Taylor series goes in two steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ommatid.ops.precision import precise


def taylor_features(x: Tensor, width: int | None = None) -> Tensor:
    """phi with phi(q) . phi(k) = 1 + s + s^2 / 2 for s = q . k / sqrt(d): (..., d) -> (..., 1 + d + d^2).

    As s grows this follows exp(s) less and less, but it is never below 1/2: weights made of it stay positive. From
    Based (arXiv 2402.18668). In float32 at least: squares of half precision are too coarse.

    width: d under the root, where it is not the number of channels, as after pruning.
    """
    x = precise(x)
    width = width or x.shape[-1]
    squares = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2) * (2 * width) ** -0.5
    return torch.cat([torch.ones_like(x[..., :1]), x / math.sqrt(math.sqrt(width)), squares], dim=-1)
