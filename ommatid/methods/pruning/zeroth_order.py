"""How much the loss depends on a weight matrix, with forward passes only; and with gradients, to compare.

The importances of ECoFLaP (arXiv 2310.02998). Its zeroth-order estimate needs no memory for gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Any], Tensor]
"""A batch -> the scalar loss of the model, whose weights are those that importances are asked for."""

Noise = Callable[[str, int], Tensor]
"""(name of a weight, number of the draw) -> a standard normal tensor of its shape."""

METHODS = ("MEZO-GradOnly", "MEZO-GradMagAbs", "MEZO-GradMagSquare", "GradOnly", "GradMagAbs", "GradMagSquare")


@torch.no_grad()
def zeroth_order_sensitivity(
    weights: Mapping[str, Tensor],
    loss: Loss,
    batches: Sequence[Any],
    sizes: Sequence[int],
    *,
    noise: Noise,
    num_noise: int = 1,
    num_samples: int = 128,
    eps: float = 1e-3,
) -> dict[str, Tensor]:
    """For each weight, sum of |loss(W + eps z) - loss(W - eps z)| / (2 eps) over draws of z: a scalar.

    Weights are changed in place, one at a time, and restored.

    Args:
        batches, sizes: calibration batches and how many samples each has. Every draw counts as so many; no draw is
            begun once `num_samples` are reached.
    """
    return {
        name: _sensitivity(name, weight, loss, batches, sizes, noise, num_noise, num_samples, eps)
        for name, weight in weights.items()
    }


def _sensitivity(
    name: str,
    weight: Tensor,
    loss: Loss,
    batches: Sequence[Any],
    sizes: Sequence[int],
    noise: Noise,
    num_noise: int,
    num_samples: int,
    eps: float,
) -> Tensor:
    original, total, seen = weight.clone(), weight.new_zeros(()), 0
    draws = [(batch, size) for batch, size in zip(batches, sizes, strict=True) for _ in range(num_noise)]
    for number, (batch, size) in enumerate(draws):
        if seen >= num_samples:
            break
        step = eps * noise(name, number).to(weight)
        above = loss_at(weight, original + step, loss, batch)
        below = loss_at(weight, original - step, loss, batch)
        total += (above - below).abs() / (2 * eps)
        seen += size
    weight.copy_(original)
    return total


def loss_at(weight: Tensor, value: Tensor, loss: Loss, batch: Any) -> Tensor:
    weight.copy_(value)
    return loss(batch)


def mean_gradients(
    weights: Mapping[str, Tensor],
    loss: Loss,
    batches: Sequence[Any],
    sizes: Sequence[int],
    *,
    power: int,
    num_samples: int = 128,
) -> dict[str, Tensor]:
    """The mean of |dL/dW|^power over batches, until `num_samples` samples are reached."""
    sums, used, seen = {name: torch.zeros_like(weight) for name, weight in weights.items()}, 0, 0
    for batch, size in zip(batches, sizes, strict=True):
        if seen >= num_samples:
            break
        grads = torch.autograd.grad(loss(batch), list(weights.values()))
        for name, grad in zip(weights, grads, strict=True):
            sums[name] += grad.abs() ** power
        used, seen = used + 1, seen + size
    return {name: value / max(used, 1) for name, value in sums.items()}


def importances(
    method: str,
    weights: Mapping[str, Tensor],
    loss: Loss,
    batches: Sequence[Any],
    sizes: Sequence[int],
    *,
    noise: Noise,
    num_noise: int = 1,
    num_samples: int = 128,
    eps: float = 1e-3,
) -> dict[str, Tensor]:
    """The importance tensor of each weight by one of METHODS: of its shape, or a scalar for "MEZO-GradOnly"."""
    squared = method.endswith("Square")
    if method.startswith("MEZO"):
        found = zeroth_order_sensitivity(
            weights, loss, batches, sizes, noise=noise, num_noise=num_noise, num_samples=num_samples, eps=eps
        )
        found = {name: value.square() if squared else value for name, value in found.items()}
    else:
        found = mean_gradients(weights, loss, batches, sizes, power=1 + squared, num_samples=num_samples)
    if method.endswith("GradOnly"):
        return found
    return {name: weights[name].detach().abs() ** (1 + squared) * value for name, value in found.items()}
