"""Resampling of channels-last maps."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["bicubic", "bilinear"]


def resample(
    features: Tensor, size: tuple[int, int], *, mode: Interpolation = "bicubic", antialias: bool = False
) -> Tensor:
    """A map (B, H, W, C) resampled to `size` between half-pixel centres, in float32; bicubic with a = -0.75."""
    if features.shape[1:3] == size:
        return features
    channels_first = features.permute(0, 3, 1, 2).float()
    resized = F.interpolate(channels_first, size=size, mode=mode, antialias=antialias, align_corners=False)
    return resized.permute(0, 2, 3, 1).to(features.dtype)
