"""Attention rollout: how much of every input token there is in every output token, over all layers.

"Quantifying Attention Flow in Transformers" (arXiv 2005.00928). Half of a layer's output is its own input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def attention_rollout(weights: Sequence[Tensor]) -> Tensor:
    """The product of (w + 1) / 2 over layers, later ones from the left: L times (B, N, N) -> (B, N, N); rows sum to 1.

    Args:
        weights: of each layer, from the first, averaged over its heads.
    """
    flow = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype, device=weights[0].device).expand_as(weights[0])
    for layer in weights:
        flow = (flow + layer @ flow) / 2
    return flow


def first_token_rollout(weights: Sequence[Tensor]) -> Tensor:
    """The first row of `attention_rollout`, that of a class token, without the others: L times (B, N, N) -> (B, N)."""
    flow = torch.zeros_like(weights[0][:, :1])
    flow[..., 0] = 1
    for layer in reversed(weights):
        flow = (flow + flow @ layer) / 2
    return flow.squeeze(1)
