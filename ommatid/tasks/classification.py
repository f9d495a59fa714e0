"""Classification: one of several classes for each image.

A batch is (images (B, 3, H, W) float, targets); targets are class indices (B,), or probabilities (B, C) where
images were mixed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from ommatid.tasks.averaging import move_average

Batch = tuple[Tensor, Tensor]
MakeOptimizer = Callable[[nn.Module], tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]]
"""model -> optimiser, and its schedule per step."""


def classification_metrics(num_classes: int) -> MetricCollection:
    """Of logits (B, C) and labels (B,): accuracy, top5 (or as many as there are classes), macro_accuracy."""
    settings: dict[str, Any] = {"num_classes": num_classes, "validate_args": False}
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(average="micro", **settings),
            "top5": MulticlassAccuracy(average="micro", top_k=min(5, num_classes), **settings),
            "macro_accuracy": MulticlassAccuracy(average="macro", **settings),
        },
        compute_groups=False,
    )


class Classification(LightningModule):
    """The training of a classifier: cross-entropy, and metrics of the averaged weights (of the model's own without).

    model: (B, 3, H, W) -> logits (B, num_classes). label_smoothing: arXiv 1512.00567. average: decay per step of the
    averaged weights, 0 for none. val_samples: their number, so that what a sampler repeats to serve every
    process equally is not counted twice.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_classes: int,
        val_samples: int,
        make_optimizer: MakeOptimizer,
        label_smoothing: float = 0.0,
        average: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.averaged = copy.deepcopy(model).requires_grad_(False) if average else None
        self.average = average
        self.val_samples = val_samples
        self.make_optimizer = make_optimizer
        self.label_smoothing = label_smoothing
        self.metrics = classification_metrics(num_classes)
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
        images, targets = batch
        loss = F.cross_entropy(self.model(images), targets, label_smoothing=self.label_smoothing)
        self.loss = loss.detach()
        self.loss_sum += self.loss
        self.steps += 1
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.averaged is not None:
            move_average(self.averaged, self.model, step=self.global_step, decay=self.average)

    def on_validation_epoch_start(self) -> None:
        self.metrics.reset()
        self.val_loss.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        logits = self.judged(images).float()
        kept = self._first_seen(len(labels), batch_idx)
        logits, labels = logits[:kept], labels[:kept]
        if kept:
            self.metrics.update(logits, labels)
            self.val_loss.update(F.cross_entropy(logits, labels, reduction="none"))

    def epoch_results(self) -> dict[str, float]:
        """train_loss, val_loss, val_accuracy, val_top5, val_macro_accuracy over all processes; each must call it."""
        train_loss = self.trainer.strategy.reduce(self.loss_sum / self.steps, reduce_op="mean")
        judged = {f"val_{name}": value.item() for name, value in self.metrics.compute().items()}
        return {"train_loss": float(train_loss), "val_loss": self.val_loss.compute().item()} | judged

    def _first_seen(self, count: int, batch_idx: int) -> int:
        """How many images of this process's batch are new: unshuffled, its k-th is number k * processes + rank.

        The repeated ones are the last, so the new ones come first in a batch.
        """
        mine = -(-(self.val_samples - self.trainer.global_rank) // self.trainer.world_size)
        loader: Any = self.trainer.val_dataloaders
        return max(min(count, mine - batch_idx * loader.batch_size), 0)
