"""Boxes that are refined from layer to layer, in logits: Deformable DETR (arXiv 2010.04159)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

LEAST = 1e-5
"""Of a share that a logit is taken of, and of its complement."""


def inverse_sigmoid(shares: Tensor) -> Tensor:
    return (shares.clamp_min(LEAST) / (1 - shares).clamp_min(LEAST)).log()


def refined(reference: Tensor, moves: Tensor) -> Tensor:
    """Shares (..., n) moved by logits (..., m): the first n of the m numbers move, the others start from one half."""
    logits = F.pad(inverse_sigmoid(reference), (0, moves.shape[-1] - reference.shape[-1]))
    return (moves + logits).sigmoid()
