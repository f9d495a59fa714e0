"""Detection: boxes of things, with a class and a score each; of mask transformers, their masks too.

A batch is (images (B, 3, H, W) float, one dictionary for each: boxes (n, 4), labels (n,), crowd (n,), area (n,), and
masks (n, H, W) where the data have outlines).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from ommatid.models.dense import Detector, Targets
from ommatid.tasks.detection_metrics import AveragePrecision
from ommatid.tasks.training import Batch, Objective

LEAST_SCORE = 0.01
"""Of detections that AP is counted from: those below weigh next to nothing in it."""

MOST = 100
"""Detections of an image, as COCO counts them."""


class Things(Objective):
    """The sum of the detector's own losses; judged by AP, of pictures made to fit into `sides` (height, width)."""

    def __init__(self, sides: tuple[int, int], *, masks: bool = False) -> None:
        super().__init__()
        self.sides = sides
        self.metrics = MetricCollection({"precision": AveragePrecision("masks" if masks else "boxes")})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, Detector)
        images, truth = batch
        return torch.stack(list(model.losses(images, targets(truth)).values())).sum()

    def judge(self, model: nn.Module, batch: Batch, kept: int) -> Tensor:
        assert isinstance(model, Detector)
        images, truth = batch
        found = detect(model, images, self.sides, score_threshold=LEAST_SCORE, most=MOST)[:kept]
        if kept:
            self.metrics.update(found, truth[:kept])
        smaller, factor = fitted(images, self.sides)
        scaled = [scaled_truth(image, factor, smaller.shape[-2:]) for image in truth]
        total = torch.stack(list(model.losses(smaller, targets(scaled)).values())).sum().detach().float()
        return total.expand(kept)


def targets(truth: list[dict[str, Any]]) -> Targets:
    """What a detector learns: no crowds."""
    used = ("boxes", "labels", "masks")
    return [{name: image[name][~image["crowd"]] for name in used if name in image} for image in truth]


def detect(
    model: Detector, images: Tensor, sides: tuple[int, int], *, score_threshold: float, most: int
) -> list[dict[str, Tensor]]:
    """What is found in (B, 3, H, W), seen at a size that fits into `sides`; boxes in pixels of the images given."""
    smaller, factor = fitted(images, sides)
    found = model.detect(smaller, score_threshold=score_threshold, most=most)
    return [_enlarged(image, factor, images.shape[-2:]) for image in found]


def fitted(images: Tensor, sides: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The images, as large as fits, and by what x and y were multiplied (2,)."""
    size = images.shape[-2:]
    factor = min(sides[0] / size[0], sides[1] / size[1])
    inner = [max(1, round(side * factor)) for side in size]
    if inner == list(size):
        return images, images.new_ones(2)
    smaller = F.interpolate(images, inner, mode="bilinear", align_corners=False, antialias=True)
    return smaller, images.new_tensor([inner[1] / size[1], inner[0] / size[0]])


def scaled_truth(image: dict[str, Any], factor: Tensor, size: torch.Size) -> dict[str, Any]:
    """The truth of an image that was resized to `size` by `factor`."""
    scaled = image | {"boxes": image["boxes"] * factor.repeat(2)}
    if "masks" in image:
        scaled["masks"] = resized_masks(image["masks"], size)
    return scaled


def _enlarged(image: dict[str, Tensor], factor: Tensor, size: torch.Size) -> dict[str, Tensor]:
    if "masks" in image:
        image = image | {"masks": resized_masks(image["masks"], size)}
    return image | {"boxes": image["boxes"] / factor.repeat(2)}


def resized_masks(masks: Tensor, size: torch.Size) -> Tensor:
    """(n, h, w) bool -> (n, H, W) bool; n may be 0."""
    if not len(masks) or masks.shape[-2:] == size:
        return masks.new_zeros((len(masks), *size)) if not len(masks) else masks
    return F.interpolate(masks[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0] > 0.5
