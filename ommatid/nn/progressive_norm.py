"""A norm that is a layer norm when training starts, and a batch norm that folds away when it ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.deploy import batch_norm_affine


class ProgressiveNorm(nn.Module):
    """w LayerNorm(x) + (1 - w) (BatchNorm(x) + alpha x), w falling from 1 to 0 in training: (..., C) -> (..., C).

    Progressive re-parameterised batch norm, of SLAB (arXiv 2405.11582). The counters advance with every forward pass in
    training, and are part of the state. In evaluation w is 0, whatever they say.

    Args:
        dim: C.
        steps: passes until w is 0.
        warmup: passes before w starts to fall, in which the batch norm is not touched.
        eps: of the layer norm.
    """

    def __init__(self, dim: int, *, steps: int, warmup: int = 0, eps: float = 1e-5) -> None:
        super().__init__()
        self.steps_left: Tensor
        self.warmup_left: Tensor
        self.steps, self.warmup = steps, warmup
        self.layer = nn.LayerNorm(dim, eps=eps)
        self.batch = nn.BatchNorm1d(dim)
        self.alpha = nn.Parameter(torch.ones(1))
        self.register_buffer("steps_left", torch.tensor(steps))
        self.register_buffer("warmup_left", torch.tensor(warmup))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            scale, shift = self.affine()
            return x * scale + shift
        if self.warmup and self.warmup_left > 0:
            self.warmup_left -= 1
            return self.layer(x)
        weight = self.steps_left / self.steps
        self.steps_left.sub_(1).clamp_(min=0)
        by_batch = self.batch(x.flatten(0, -2)).view(x.shape) + self.alpha * x
        return weight * self.layer(x) + (1 - weight) * by_batch

    def affine(self) -> tuple[Tensor, Tensor]:
        """(scale, shift) per channel that this applies in evaluation."""
        scale, shift = batch_norm_affine(self.batch)
        return scale + self.alpha, shift
