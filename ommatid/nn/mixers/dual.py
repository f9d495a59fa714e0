"""Dual attention: every position looks at all others, or every channel does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.ops.attention import attend

REDUCTION = 8
"""Channels by those of queries and keys."""


class DualPositionAttention(nn.Module):
    """Every position attends to all by narrow queries and keys: (B, H, W, C) -> (B, H, W, C).

    The position half of DANet (arXiv 1809.02983). Scores are not scaled, but the answer is, by a learned factor that
    begins at 0. Cost: 1.25 H W C^2 + 2 (H W)^2 C multiply-adds.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        narrow = max(dim // REDUCTION, 1)
        self.query, self.key, self.value = (nn.Linear(dim, width) for width in (narrow, narrow, dim))
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        value = self.value(tokens)
        # Fused attention wants queries as wide as values: zeros cost less than scores that are written down.
        query, key = (
            F.pad(layer(tokens), (0, value.shape[-1] - layer.out_features)) for layer in (self.query, self.key)
        )
        mixed = attend(query[:, :, None], key[:, :, None], value[:, :, None], scale=1.0)
        return self.gamma * mixed.view(x.shape)


class DualChannelAttention(nn.Module):
    """Every channel attends to those that are least like it: (B, H, W, C) -> (B, H, W, C).

    The channel half of DANet (arXiv 1809.02983), whose scores are products of whole maps with the sign turned around.
    The answer is scaled by a learned factor that begins at 0. Cost: 2 H W C^2 multiply-adds.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.flatten(1, 2)
        # In float32: sums over a whole map, of which the softmax sees the smallest differences.
        with torch.autocast(x.device.type, enabled=False):
            exact = channels.to(torch.promote_types(channels.dtype, torch.float32))
            weights = (-(exact.mT @ exact)).softmax(-1)
        return self.gamma * (channels @ weights.mT.to(channels.dtype)).view(x.shape)
