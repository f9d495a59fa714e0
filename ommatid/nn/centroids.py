"""Centroids that follow the tokens of a training by online k-means."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.ops.online_kmeans import batch_centroids, moved_centroids

FIRST_STEPS = 10
"""Steps of k-means that centroids make on the first batch of a training."""


class Centroids(nn.Module):
    """K directions for each head, with which tokens are compared. Buffers, not parameters.

    In the first batch of a training they begin as some of its tokens. Later they follow: `collect` in a forward pass,
    `update_` in the backward pass, so that a pass uses the same ones throughout. In evaluation mode they stay.

    Args:
        heads, count, dim: of (heads, K, d).
        decay: of the exponential moving average.
    """

    def __init__(self, heads: int, count: int, dim: int, *, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.means: Tensor
        self.register_buffer("means", F.normalize(torch.randn(heads, count, dim), dim=-1))
        self.started: Tensor
        self.register_buffer("started", torch.tensor(False))
        self.collected: Tensor | None = None
        self.batches = 0

    @torch.no_grad()
    def start_(self, tokens: Tensor) -> None:
        """Centroids from tokens (B, heads, N, d), as these are, and some steps of k-means; the first time only."""
        if self.started:
            return
        pool = tokens.transpose(0, 1).flatten(1, 2).to(self.means.dtype)
        count, available = self.means.shape[1], pool.shape[1]
        orders = torch.rand(len(pool), max(available, count), device=pool.device).argsort(-1)[:, :count] % available
        means = pool.gather(1, orders.unsqueeze(-1).expand(-1, -1, pool.shape[-1]))
        for _ in range(FIRST_STEPS):
            means = batch_centroids(tokens, means)
        self.means.copy_(means)
        self.started.fill_(True)

    @torch.no_grad()
    def collect(self, tokens: Tensor) -> None:
        """Takes note of where a batch's tokens (B, heads, N, d) are; several batches before an update are averaged."""
        found = batch_centroids(tokens, self.means)
        self.batches += 1
        self.collected = found if self.collected is None else self.collected.lerp(found, 1 / self.batches)

    @torch.no_grad()
    def update_(self) -> None:
        """Moves the centroids towards what was collected, if anything was since the last time."""
        if self.collected is not None:
            self.means = moved_centroids(self.means, self.collected, self.decay)
            self.collected, self.batches = None, 0
