"""How well pixels are told apart: mean IoU, IoU of each class, and the share of pixels that are right."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from ommatid.tasks.segmentation_losses import IGNORED


class PixelConfusion(Metric):
    """Counts pixels by true class and answer; `compute` gives miou, pixel_accuracy and mean_accuracy.

    Pixels of the class 255 are left out. As the literature does, IoU is taken from the counts of all images together;
    a class that neither the truth nor any answer has is left out of the means.
    """

    counts: Tensor
    full_state_update = False

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("counts", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, answers: Tensor, truth: Tensor) -> None:
        """Both (..., H, W) integers."""
        counted = truth != IGNORED
        pairs = truth[counted].long() * self.num_classes + answers[counted].long()
        self.counts += torch.bincount(pairs, minlength=self.num_classes**2).reshape_as(self.counts)

    def compute(self) -> dict[str, Tensor]:
        iou, accuracy = iou_by_class(self.counts), self.counts.diag() / self.counts.sum(1)
        right = self.counts.diag().sum() / self.counts.sum().clamp_min(1)
        return {
            "miou": iou.nanmean().nan_to_num(),
            "pixel_accuracy": right,
            "mean_accuracy": accuracy.nanmean().nan_to_num(),
        }


def iou_by_class(counts: Tensor) -> Tensor:
    """(C, C), true classes down -> (C,): right pixels by those that either are or are called so; NaN where none are."""
    right = counts.diag()
    return right / (counts.sum(0) + counts.sum(1) - right)
