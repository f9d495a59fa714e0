"""Batches of annotated pictures."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ommatid.data.dense.samples import SceneSamples, Truth
from ommatid.data.dense.transforms import SceneTransform, normalized
from ommatid.data.loader import Loader, epoch_loader

Drawn = tuple[Tensor, Truth]


def make_segmentation_loader(samples: SceneSamples, transform: SceneTransform, **options: Any) -> Loader:
    """A loader of (images (batch, 3, H, W) float, masks (batch, H, W) int64); options: as of `epoch_loader`."""
    return epoch_loader(samples, partial(_drawn, samples, transform), _with_masks, **options)


def make_detection_loader(samples: SceneSamples, transform: SceneTransform, **options: Any) -> Loader:
    """A loader of (images (batch, 3, H, W) float, one dictionary of `Truth` for each); as of `epoch_loader`."""
    return epoch_loader(samples, partial(_drawn, samples, transform), _with_things, **options)


def _drawn(samples: SceneSamples, transform: SceneTransform, index: int) -> Drawn:
    return transform(*samples[index])


def _with_masks(drawn: list[Drawn]) -> tuple[Tensor, Tensor]:
    images, truths = zip(*drawn, strict=True)
    masks = torch.stack([truth["mask"].as_subclass(Tensor) for truth in truths])
    return normalized(torch.stack(images)), masks.long()


def _with_things(drawn: list[Drawn]) -> tuple[Tensor, list[Truth]]:
    images, truths = zip(*drawn, strict=True)
    plain = [
        {name: value.as_subclass(Tensor) if isinstance(value, Tensor) else value for name, value in truth.items()}
        for truth in truths
    ]
    return normalized(torch.stack(images)), plain
