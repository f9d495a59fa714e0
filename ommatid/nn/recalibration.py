"""Batch norms measured anew: for a model whose weights or channels changed since its statistics were taken."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ommatid.nn import norm

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def recalibrated(model: Model, batches: Iterable[Tensor]) -> Model:
    """A copy in evaluation mode whose batch norms have the means and (biased) variances of these batches of images.

    Each batch is normed by its own statistics on its way; their means, weighted by batch sizes, are kept. Needed for
    every sub-network of a super-network before it is judged (arXiv 1908.09791).
    """
    measured = copy.deepcopy(model).eval()
    found = {
        part: _Statistics(part) for part in measured.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)
    }
    for images in batches:
        for statistics in found.values():
            statistics.batch = len(images)
        measured(images)
    for statistics in found.values():
        statistics.write_()
    return measured.eval()


class _Statistics:
    """Weighted sums of the statistics that one batch norm sees, while it runs in training mode."""

    def __init__(self, layer: nn.modules.batchnorm._BatchNorm) -> None:
        self.layer = layer.train()
        self.batch = self.count = 0
        self.mean = self.variance = torch.zeros(layer.num_features)
        self.hook = layer.register_forward_pre_hook(self._see)

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (features,) = inputs
        channels = features.dim() - 1 if isinstance(layer, norm.BatchNorm | norm.BatchNorm2d) else 1
        others = [axis for axis in range(features.dim()) if axis != channels]
        variance, mean = torch.var_mean(features.float(), dim=others, correction=0)
        self.count += self.batch
        self.mean = self.mean.to(mean) + self.batch * mean
        self.variance = self.variance.to(variance) + self.batch * variance

    def write_(self) -> None:
        self.hook.remove()
        if self.count and self.layer.running_mean is not None and self.layer.running_var is not None:
            self.layer.running_mean.copy_(self.mean / self.count)
            self.layer.running_var.copy_(self.variance / self.count)
