"""Semantic segmentation: a class for every pixel.

A batch is (images (B, 3, H, W) float, classes (B, H, W)), 255 being no class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from ommatid.data.dense.masks import mask_boxes
from ommatid.models.dense import MaskSegmenter, MaskTransformer, Targets
from ommatid.tasks.segmentation_losses import IGNORED, LOSSES, cross_entropy
from ommatid.tasks.segmentation_metrics import PixelConfusion
from ommatid.tasks.training import Batch, Objective
from ommatid.tasks.whole_or_window import Segmentation


class Pixels(Objective):
    """The loss of every pixel's logits; or those of models that learn masks, which have losses of their own.

    loss: a name of `LOSSES`. weights: of the classes (C,), in training alone. through: how pictures are judged.
    """

    weights: Tensor | None

    def __init__(self, num_classes: int, loss: str, through: Segmentation, weights: Tensor | None = None) -> None:
        super().__init__()
        self.distance = LOSSES[loss]
        self.through = through
        self.register_buffer("weights", weights, persistent=False)
        self.metrics = MetricCollection({"pixels": PixelConfusion(num_classes)})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, classes = batch
        if isinstance(model, MaskTransformer):
            return torch.stack(list(model.losses(images, class_masks(classes)).values())).sum()
        if isinstance(model, MaskSegmenter):
            return torch.stack(list(model.losses(images, classes, ignored=IGNORED).values())).sum()
        return self.distance(model(images), classes, self.weights)

    def judge(self, model: nn.Module, batch: Batch, kept: int) -> Tensor:
        images, classes = batch
        logits, classes = self.through(model, images).float()[:kept], classes[:kept]
        if kept:
            self.metrics.update(logits.argmax(1), classes)
        return logits.new_tensor([cross_entropy(*pair) for pair in zip(logits[:, None], classes[:, None], strict=True)])


def class_masks(classes: Tensor) -> Targets:
    """(B, H, W) -> one mask for each class that an image has, with its box."""
    targets = []
    for image in classes:
        labels = image[image != IGNORED].unique()
        masks = image == labels[:, None, None]
        targets.append({"labels": labels, "masks": masks, "boxes": mask_boxes(masks)})
    return targets
