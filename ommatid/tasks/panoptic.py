"""Panoptic segmentation: every pixel's segment, which is one thing, or all there is of one kind of stuff.

A batch is (images (B, 3, H, W) float, one dictionary for each: segments (H, W) integers from 1, 0 for none, labels (n,)
and crowd (n,) of segments 1 to n).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from ommatid.models.dense import MaskTransformer, Targets
from ommatid.tasks.detection import fitted
from ommatid.tasks.panoptic_metrics import SegmentQuality
from ommatid.tasks.training import Batch, Objective

SCORE = 0.5
"""Of a query, from which on it makes a segment."""


class Segments(Objective):
    """The sum of a mask transformer's own losses; judged by PQ, of pictures made to fit into `sides` (height, width).

    stuff: labels of the classes whose segments are joined.
    """

    def __init__(self, sides: tuple[int, int], num_classes: int, stuff: tuple[int, ...]) -> None:
        super().__init__()
        self.sides = sides
        self.things = tuple(label for label in range(num_classes) if label not in stuff)
        self.metrics = MetricCollection({"quality": SegmentQuality(num_classes, stuff)})

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, MaskTransformer)
        images, truth = batch
        return torch.stack(list(model.losses(images, segment_masks(truth)).values())).sum()

    def judge(self, model: nn.Module, batch: Batch, kept: int) -> Tensor:
        assert isinstance(model, MaskTransformer)
        images, truth = batch
        found = segmented(model, images, self.sides, self.things)[:kept]
        if kept:
            self.metrics.update(found, truth[:kept])
        smaller, _ = fitted(images, self.sides)
        scaled = [image | {"segments": resized(image["segments"], smaller.shape[-2:])} for image in truth]
        return self.loss(model, (smaller, scaled)).detach().float().expand(kept)


def segment_masks(truth: list[dict[str, Any]]) -> Targets:
    """A mask for each segment that has a pixel; no crowds."""
    targets = []
    for image in truth:
        numbers = torch.arange(1, len(image["labels"]) + 1, device=image["segments"].device)
        masks = image["segments"] == numbers[:, None, None]
        kept = masks.flatten(1).any(1) & ~image["crowd"]
        targets.append({"labels": image["labels"][kept], "masks": masks[kept]})
    return targets


def segmented(
    model: MaskTransformer, images: Tensor, sides: tuple[int, int], things: tuple[int, ...]
) -> list[dict[str, Tensor]]:
    """The segments of (B, 3, H, W), seen at a size that fits into `sides`; as `MaskTransformer.panoptic` has them."""
    smaller, _ = fitted(images, sides)
    found = model.panoptic(smaller, things=things, score_threshold=SCORE)
    return [image | {"segments": resized(image["segments"], images.shape[-2:])} for image in found]


def resized(segments: Tensor, size: torch.Size) -> Tensor:
    """(h, w) integers -> (H, W), each pixel the nearest one's."""
    if segments.shape == size:
        return segments
    return F.interpolate(segments[None, None].double(), size, mode="nearest-exact")[0, 0].to(segments.dtype)
