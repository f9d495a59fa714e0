"""Pre-training: a backbone learns from pictures alone, by saying what is hidden of them.

A batch is (images (B, 3, H, W), noise (B, N) from 0 to 1, which decides what is hidden).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from ommatid.methods.pretraining.guessing import Errors, Guesser
from ommatid.tasks.training import Batch, MakeOptimizer, Objective, Training


class Agreement(Metric):
    """1 - error / error of an empty guess, both summed over all images: 1 for what is guessed wholly."""

    guessed: Tensor
    empty: Tensor
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("guessed", "empty"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, errors: Errors) -> None:
        self.guessed += errors.guessed.sum()
        self.empty += errors.empty.sum()

    def compute(self) -> Tensor:
        return 1 - self.guessed / self.empty.clamp_min(1e-12)


class Guessed(Objective):
    """A learner's own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = MetricCollection({"agreement": Agreement()})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(*batch)

    def judge(self, model: nn.Module, batch: Batch, kept: int) -> Tensor:
        assert isinstance(model, Guesser)
        errors = model.errors(*batch)
        self.metrics.update(Errors(*(part[:kept] for part in errors)))
        return errors.guessed[:kept]


class Pretraining(Training):
    """The training of a learner; arguments as of its parts."""

    def __init__(
        self, model: nn.Module, *, val_samples: int, make_optimizer: MakeOptimizer, average: float = 0.0
    ) -> None:
        super().__init__(model, Guessed(), val_samples=val_samples, make_optimizer=make_optimizer, average=average)
