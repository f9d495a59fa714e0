"""Panoptic quality: how many segments are found, and how well they fit ("Panoptic Segmentation", arXiv 1801.00868)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class SegmentQuality(Metric):
    """PQ, SQ and RQ over all images, from 0 to 1, and PQ of things and of stuff; 0 where there is nothing to find.

    A segment is found by one of its class that overlaps it by more than half. SQ: their mean overlap. RQ: the found
    ones by the mean of how many are there and how many are told. PQ: SQ times RQ. Each is a mean over the classes that
    are there or told. Pixels without a segment are not judged, and what is mostly there, or in a crowd of its class, is
    no mistake, as COCO's tools count it.

    stuff: labels of the classes of which an image has one segment at most.
    """

    overlap: Tensor
    found: Tensor
    missed: Tensor
    wrong: Tensor
    full_state_update = False

    def __init__(self, num_classes: int, stuff: Collection[int]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stuff = list(stuff)
        for name in ("overlap", "found", "missed", "wrong"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, found: list[dict[str, Tensor]], truth: list[dict[str, Any]]) -> None:
        """One dictionary per image each: segments (H, W), labels (n,) of segments 1 to n; of the truth crowd (n,)."""
        for answer, there in zip(found, truth, strict=True):
            self._count(answer, there)

    def compute(self) -> dict[str, Tensor]:
        pq, sq, rq = self.by_class()
        is_stuff = torch.zeros_like(pq, dtype=torch.bool)
        is_stuff[self.stuff] = True
        means = {"pq": pq, "sq": sq, "rq": rq, "pq_things": pq[~is_stuff], "pq_stuff": pq[is_stuff]}
        return {name: values.nanmean().nan_to_num() for name, values in means.items()}

    def by_class(self) -> Tensor:
        """(3, C): PQ, SQ and RQ; NaN for a class that no image and no answer has."""
        rq = self.found / (self.found + 0.5 * self.missed + 0.5 * self.wrong)
        sq = torch.where(self.found > 0, self.overlap / self.found, rq)  # none found: 0, or NaN
        return torch.stack([sq * rq, sq, rq])

    def _count(self, answer: dict[str, Tensor], truth: dict[str, Any]) -> None:
        told, labels, crowd = answer["labels"], truth["labels"], truth["crowd"]
        shared = _shared_pixels(answer["segments"], truth["segments"], len(told) + 1, len(labels) + 1)
        area, true_area = shared[1:].sum(1), shared[:, 1:].sum(0)
        unjudged, inside = shared[1:, 0], shared[1:, 1:]
        same = told[:, None] == labels
        union = (area - unjudged)[:, None] + true_area - inside
        fits = same & ~crowd & (inside > 0.5 * union)  # of segments that don't overlap, one at most
        excused = unjudged + (inside * (same & crowd)).sum(1)
        missed = ~fits.any(0) & ~crowd & (true_area > 0)
        wrong = ~fits.any(1) & (area > 0) & (excused <= 0.5 * area)
        pairs = fits.nonzero()
        self.overlap += self._by_class(labels[pairs[:, 1]], (inside / union)[fits])
        self.found += self._by_class(labels[pairs[:, 1]])
        self.missed += self._by_class(labels[missed])
        self.wrong += self._by_class(told[wrong])

    def _by_class(self, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return torch.bincount(labels, weights, minlength=self.num_classes).double()


def _shared_pixels(one: Tensor, other: Tensor, rows: int, columns: int) -> Tensor:
    """(H, W) numbers twice -> (rows, columns): how many pixels have the one number and the other."""
    pairs = one.long() * columns + other.long()
    return torch.bincount(pairs.flatten(), minlength=rows * columns).reshape(rows, columns).double()
