"""Classification: one of several classes for each image.

A batch is (images (B, 3, H, W) float, targets); targets are class indices (B,), or probabilities (B, C) where
images were mixed.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from ommatid.models import Backbone
from ommatid.tasks.training import Batch, MakeOptimizer, Objective, Training


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


class CrossEntropy(Objective):
    """Cross-entropy of logits (B, num_classes), and in training what the architecture adds to it.

    label_smoothing: arXiv 1512.00567, in training alone.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.metrics = classification_metrics(num_classes)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, targets = batch
        logits, added = model.with_auxiliary_loss(images) if isinstance(model, Backbone) else (model(images), 0.0)
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing) + added

    def judge(self, model: nn.Module, batch: Batch, kept: int) -> Tensor:
        images, labels = batch
        logits, labels = model(images).float()[:kept], labels[:kept]
        if kept:
            self.metrics.update(logits, labels)
        return F.cross_entropy(logits, labels, reduction="none")


class Classification(Training):
    """The training of a classifier, (B, 3, H, W) -> logits (B, num_classes); arguments as of its parts."""

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
        objective = CrossEntropy(num_classes, label_smoothing)
        super().__init__(model, objective, val_samples=val_samples, make_optimizer=make_optimizer, average=average)
