"""How much the loss depends on a weight matrix, with forward passes only; and with gradients, to compare.

The importances of ECoFLaP (arXiv 2310.02998). Its zeroth-order estimate needs no memory for gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Any], Tensor]
"""A batch -> the scalar loss of the model, whose weights are those that importances are asked for."""

Noise = Callable[[str, int], Tensor]
"""(name of a weight, number of the draw) -> a standard normal tensor of its shape."""

METHODS = ("MEZO-GradOnly", "MEZO-GradMagAbs", "MEZO-GradMagSquare", "GradOnly", "GradMagAbs", "GradMagSquare")


@dataclass(frozen=True)
class Calibration:
    """What the loss is computed on.

    loss: of a batch. batches, sizes: batches, and how many samples each has. num_samples: no batch is begun once so
    many samples were seen.
    """

    loss: Loss
    batches: Sequence[Any]
    sizes: Sequence[int]
    num_samples: int = 128

    def until_enough(self, times: int = 1) -> Iterator[Any]:
        """The batches, each so many times in a row; every time its samples count as seen."""
        seen = 0
        for batch, size in zip(self.batches, self.sizes, strict=True):
            for _ in range(times):
                if seen >= self.num_samples:
                    return
                yield batch
                seen += size


@dataclass(frozen=True)
class Steps:
    """Steps away from a weight: eps times the noise, `draws` of them for each batch."""

    noise: Noise
    draws: int = 1
    eps: float = 1e-3


@torch.no_grad()
def zeroth_order_sensitivity(
    weights: Mapping[str, Tensor], calibration: Calibration, steps: Steps
) -> dict[str, Tensor]:
    """For each weight, sum of |loss(W + eps z) - loss(W - eps z)| / (2 eps) over draws of z: a scalar.

    Weights are changed in place, one at a time, and restored.
    """
    return {name: _sensitivity(name, weight, calibration, steps) for name, weight in weights.items()}


def _sensitivity(name: str, weight: Tensor, calibration: Calibration, steps: Steps) -> Tensor:
    original, total = weight.clone(), weight.new_zeros(())
    for number, batch in enumerate(calibration.until_enough(steps.draws)):
        step = steps.eps * steps.noise(name, number).to(weight)
        weight.copy_(original + step)
        above = calibration.loss(batch)
        weight.copy_(original - step)
        total += (above - calibration.loss(batch)).abs() / (2 * steps.eps)
    weight.copy_(original)
    return total


def mean_gradients(weights: Mapping[str, Tensor], calibration: Calibration, *, power: int) -> dict[str, Tensor]:
    """The mean of |dL/dW|^power over batches."""
    sums, used = {name: torch.zeros_like(weight) for name, weight in weights.items()}, 0
    for batch in calibration.until_enough():
        grads = torch.autograd.grad(calibration.loss(batch), list(weights.values()))
        for name, grad in zip(weights, grads, strict=True):
            sums[name] += grad.abs() ** power
        used += 1
    return {name: value / max(used, 1) for name, value in sums.items()}


def importances(
    method: str, weights: Mapping[str, Tensor], calibration: Calibration, steps: Steps
) -> dict[str, Tensor]:
    """The importance tensor of each weight by one of METHODS: of its shape, or a scalar for "MEZO-GradOnly"."""
    squared = method.endswith("Square")
    if method.startswith("MEZO"):
        found = zeroth_order_sensitivity(weights, calibration, steps)
        found = {name: value.square() if squared else value for name, value in found.items()}
    else:
        found = mean_gradients(weights, calibration, power=1 + squared)
    if method.endswith("GradOnly"):
        return found
    return {name: weights[name].detach().abs() ** (1 + squared) * value for name, value in found.items()}
