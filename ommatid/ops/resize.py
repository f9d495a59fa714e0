"""Resampling of channels-last maps."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["bicubic", "bilinear", "nearest"]


def resample(
    features: Tensor,
    size: tuple[int, int],
    *,
    mode: Interpolation = "bicubic",
    antialias: bool = False,
    align_corners: bool = False,
) -> Tensor:
    """A map (B, H, W, C) resampled to `size` between half-pixel centres, in float32; bicubic with a = -0.75.

    With `align_corners` the outermost centres stay where they are instead. "nearest" takes the floor of places.
    """
    if features.shape[1:3] == size:
        return features
    channels_first = features.permute(0, 3, 1, 2).float()
    corners = None if mode == "nearest" else align_corners
    resized = F.interpolate(channels_first, size=size, mode=mode, antialias=antialias, align_corners=corners)
    return resized.permute(0, 2, 3, 1).to(features.dtype)


def resample_corners(features: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (B, H, W, C) resampled to `size`, bilinear, so that the centres of its corner cells stay in the corners."""
    channels_first = features.permute(0, 3, 1, 2)
    return F.interpolate(channels_first, size=size, mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
