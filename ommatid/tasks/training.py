"""The training of any model: its loss step by step, and the metrics of its averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from ommatid.tasks.averaging import move_average

Batch = tuple[Tensor, Any]
"""What the model sees (B, ...), and what it should make of it: (B, ...), or one entry for each image."""

MakeOptimizer = Callable[[nn.Module], tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]]
"""model -> optimiser, and its schedule per step."""


class Objective(nn.Module):
    """Base of what a model is trained for. A task sets `metrics`, and defines `loss` and `judge`."""

    metrics: MetricCollection

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar that a training step makes smaller."""
        raise NotImplementedError

    def judge(self, model: nn.Module, batch: Batch, kept: int) -> Tensor:
        """Updates `metrics` by the first `kept` samples of a validation batch, and gives their losses (kept,).

        The model runs on the whole batch whatever is kept: its shards may lie with processes that keep other numbers.
        """
        raise NotImplementedError


class Training(LightningModule):
    """Trains `model` for `objective`; metrics are of the averaged weights (of the model's own without).

    average: decay per step of the averaged weights, 0 for none. val_samples: their number, so that what a sampler
    repeats to serve every process equally is not counted twice.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        *,
        val_samples: int,
        make_optimizer: MakeOptimizer,
        average: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.averaged = copy.deepcopy(model).requires_grad_(False) if average else None
        self.average = average
        self.val_samples = val_samples
        self.make_optimizer = make_optimizer
        self.objective = objective
        self.val_loss = MeanMetric()
        self.loss = torch.zeros(())
        self.loss_sum = torch.zeros(())
        self.steps = 0

    @property
    def judged(self) -> nn.Module:
        """The model that validation sees and that is worth saving."""
        return self.model if self.averaged is None else self.averaged

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        optimizer, schedule = self.make_optimizer(self.model)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self.loss_sum, self.steps = torch.zeros((), device=self.device), 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.objective.loss(self.model, batch)
        self.loss = loss.detach()
        self.loss_sum += self.loss
        self.steps += 1
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.averaged is not None:
            move_average(self.averaged, self.model, step=self.global_step, decay=self.average)

    def on_validation_epoch_start(self) -> None:
        self.objective.metrics.reset()
        self.val_loss.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        losses = self.objective.judge(self.judged, batch, self._first_seen(len(batch[0]), batch_idx))
        if len(losses):
            self.val_loss.update(losses)

    def epoch_results(self) -> dict[str, float]:
        """train_loss, val_loss, and val_NAME of every metric, over all processes; each must call it."""
        train_loss = self.trainer.strategy.reduce(self.loss_sum / self.steps, reduce_op="mean")
        judged = {f"val_{name}": value.item() for name, value in self.objective.metrics.compute().items()}
        return {"train_loss": float(train_loss), "val_loss": self.val_loss.compute().item()} | judged

    def _first_seen(self, count: int, batch_idx: int) -> int:
        """How many images of this process's batch are new: unshuffled, its k-th is number k * processes + rank.

        The repeated ones are the last, so the new ones come first in a batch.
        """
        mine = -(-(self.val_samples - self.trainer.global_rank) // self.trainer.world_size)
        loader: Any = self.trainer.val_dataloaders
        return max(min(count, mine - batch_idx * loader.batch_size), 0)
