"""Averaged weights: an exponential moving average over the steps, which generalises better than the last step's."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


@torch.no_grad()
def move_average(averaged: nn.Module, model: nn.Module, *, step: int, decay: float) -> None:
    """Moves the weights of `averaged`, a copy of `model`, towards it; statistics of batch norms included.

    Early on the decay is lower, (1 + n) / (10 + n) at step n, so that a short training is not held at its start.
    """
    rate = 1 - min(decay, (1 + step) / (10 + step))
    means, values = (list(chain(module.parameters(), module.buffers())) for module in (averaged, model))
    moving = [index for index, mean in enumerate(means) if mean.is_floating_point() or mean.is_complex()]
    torch._foreach_lerp_([means[index] for index in moving], [values[index] for index in moving], rate)
    for index in set(range(len(means))) - set(moving):
        # Counters and index tables have no mean.
        means[index].copy_(values[index])
