"""A picture of any size through a segmentation network: as a whole, or under a window that slides over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ommatid.models.dense import MaskTransformer

OVERLAP = 3
"""A window overlaps the one before by a part of its side, one over this."""

TOGETHER = 4
"""Windows that go through the network at once."""


@dataclass(frozen=True)
class Segmentation:
    """How pictures go through a network.

    view: "whole", made to fit into `sides`, (height, width) in pixels; or "window", `sides` being that of the window,
    and answers averaged where windows overlap.
    """

    view: Literal["whole", "window"]
    sides: tuple[int, int]

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        """(B, 3, H, W) float -> logits (B, num_classes, H, W)."""
        return self._whole(model, images) if self.view == "whole" else self._sliding(model, images)

    def seen(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> what the network sees of them at once: all of them, made to fit, or the first window."""
        size = images.shape[-2:]
        if self.view == "window":
            return images[..., : self.sides[0], : self.sides[1]]
        factor = min(self.sides[0] / size[0], self.sides[1] / size[1])
        inner = [max(1, round(side * factor)) for side in size]
        if inner == list(size):
            return images
        return F.interpolate(images, inner, mode="bilinear", align_corners=False, antialias=True)

    def _whole(self, model: nn.Module, images: Tensor) -> Tensor:
        logits, size = logits_of(model, self.seen(images)), images.shape[-2:]
        if logits.shape[-2:] == size:
            return logits
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)

    def _sliding(self, model: nn.Module, images: Tensor) -> Tensor:
        size = images.shape[-2:]
        window = tuple(min(side, most) for side, most in zip(size, self.sides, strict=True))
        corners = [(top, left) for top in _starts(size[0], window[0]) for left in _starts(size[1], window[1])]
        total, seen = images.new_zeros(()), images.new_zeros(1, 1, *size)
        for begin in range(0, len(corners), TOGETHER):
            group = corners[begin : begin + TOGETHER]
            parts = torch.cat([images[..., y : y + window[0], x : x + window[1]] for y, x in group])
            answers = logits_of(model, parts).chunk(len(group))
            if not total.ndim:
                total = answers[0].new_zeros(len(images), answers[0].shape[1], *size)
            for (y, x), answer in zip(group, answers, strict=True):
                total[..., y : y + window[0], x : x + window[1]] += answer
                seen[..., y : y + window[0], x : x + window[1]] += 1
        return total / seen


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """(B, num_classes, H, W); of a mask transformer, the logarithm of how much of each class a pixel is."""
    if isinstance(model, MaskTransformer):
        return model.semantic(images).clamp_min(1e-6).log()
    return model(images)


def _starts(length: int, window: int) -> list[int]:
    """Where windows begin: evenly, the first at the start and the last up to the end."""
    step = max(1, window - window // OVERLAP)
    count = 1 + -(-(length - window) // step)
    return [round(index * (length - window) / max(count - 1, 1)) for index in range(count)]
