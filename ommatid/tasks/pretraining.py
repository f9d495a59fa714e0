"""Pre-training: a backbone learns from pictures alone.

A batch is (images (B, ..., 3, H, W), what was drawn at random beside each (B, ...)), as its learner takes them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from ommatid.methods.pretraining.learner import Errors, Learner
from ommatid.tasks.training import Batch, MakeOptimizer, Objective, Training


class Agreement(Metric):
    """1 - error / error of an empty answer, both summed over all images: 1 for one without fault."""

    found: Tensor
    empty: Tensor
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("found", "empty"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, errors: Errors) -> None:
        self.found += errors.found.sum()
        self.empty += errors.empty.sum()

    def compute(self) -> Tensor:
        return 1 - self.found / self.empty.clamp_min(1e-12)


class Learned(Objective):
    """A learner's own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = MetricCollection({"agreement": Agreement()})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(*batch)

    def judge(self, model: nn.Module, batch: Batch, kept: int) -> Tensor:
        assert isinstance(model, Learner)
        errors = model.errors(*batch)
        self.metrics.update(Errors(*(part[:kept] for part in errors)))
        return errors.found[:kept]


class Pretraining(Training):
    """The training of a learner; arguments as of its parts."""

    def __init__(
        self, model: nn.Module, *, val_samples: int, make_optimizer: MakeOptimizer, average: float = 0.0
    ) -> None:
        super().__init__(model, Learned(), val_samples=val_samples, make_optimizer=make_optimizer, average=average)
