"""Polarized attention: a gate per channel, which collapses space, and a gate per position, which collapses channels.

"Polarized Self-Attention: Towards High-quality Pixel-wise Regression" (arXiv 2107.00782).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ParallelPolarizedAttention(nn.Module):
    """Both gates look at the input, and their results are added: (B, H, W, C) -> (B, H, W, C).

    Polarized self-attention in parallel (arXiv 2107.00782). Cost: 4 H W C + 3/2 C^2 multiply-adds.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.channel_gate = ChannelGate(dim, nn.Linear(dim // 2, dim, bias=False))
        self.spatial_gate = PooledSpatialGate(dim)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.spatial_gate(x) + x * self.channel_gate(x)


class SequentialPolarizedAttention(nn.Module):
    """The gate per position looks at what the gate per channel let through: (B, H, W, C) -> (B, H, W, C).

    Polarized self-attention in sequence (arXiv 2107.00782). Cost: H W (C^2 / 2 + 5/2 C) + 9/8 C^2 multiply-adds.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        half, narrow = dim // 2, dim // 2 // 4
        expand = nn.Sequential(nn.Linear(half, narrow), nn.LayerNorm(narrow), nn.ReLU(), nn.Linear(narrow, dim))
        self.channel_gate = ChannelGate(dim, expand)
        self.spatial_gate = NormedSpatialGate(dim)

    def forward(self, x: Tensor) -> Tensor:
        gated = x * self.channel_gate(x)
        return gated * self.spatial_gate(gated)


class ChannelGate(nn.Module):
    """Pools the map with learned softmax weights, and gates every channel by it: (B, H, W, C) -> (B, 1, 1, C).

    Args:
        dim: C.
        expand: C // 2 -> C, from the pooled values to the logits of the gate.
    """

    def __init__(self, dim: int, expand: nn.Module) -> None:
        super().__init__()
        self.query = relu_linear(dim, 1)
        self.value = relu_linear(dim, dim // 2)
        self.expand = expand

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        weights = self.query(tokens).softmax(1)
        # Pooling before the value projection gives the same, for one token instead of H W of them.
        pooled = weights.transpose(1, 2) @ tokens
        return self.expand(self.value(pooled)).sigmoid().unsqueeze(1)


class PooledSpatialGate(nn.Module):
    """Softmax over positions of their product with the mean query: (B, H, W, C) -> (B, H, W, 1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = relu_linear(dim, dim // 2)
        self.value = relu_linear(dim, dim // 2)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x.mean((1, 2)))
        # The query goes through the value projection backwards, instead of every position forwards.
        scores = x.flatten(1, 2) @ (query @ self.value.weight).unsqueeze(-1)
        return scores.softmax(1).sigmoid().view(*x.shape[:3], 1)


class NormedSpatialGate(nn.Module):
    """Product of the mean query with values that are softmaxed over positions: (B, H, W, C) -> (B, H, W, 1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = relu_linear(dim, dim // 2)
        self.value = relu_linear(dim, dim // 2)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x.mean((1, 2)))
        values = self.value(x.flatten(1, 2)).softmax(1)
        return (values @ query.unsqueeze(-1)).sigmoid().view(*x.shape[:3], 1)


def relu_linear(dim: int, out_dim: int) -> nn.Linear:
    """A linear layer without bias, weights from N(0, 2 / dim)."""
    layer = nn.Linear(dim, out_dim, bias=False)
    with torch.no_grad():
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer
