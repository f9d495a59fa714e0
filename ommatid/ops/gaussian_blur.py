"""Gaussian blur of images, mirrored beyond their border."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def blur_radius(sigma: float) -> int:
    """Pixels to either side that a blur reads: three standard deviations, at least one pixel."""
    return max(1, math.ceil(3 * sigma))


def gaussian_blur(image: Tensor, sigma: float, radius: int | None = None) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W), by rows and by columns.

    Beyond the border the image is mirrored, without repeating the border itself. Cost: 4 radius + 2 multiply-adds for
    each value.

    Args:
        image: of any channels.
        sigma: standard deviation in pixels.
        radius: pixels to either side that are read; `blur_radius` where None.

    Raises:
        ValueError: a side of the image is not longer than the radius.
    """
    radius = blur_radius(sigma) if radius is None else radius
    size = tuple(image.shape[-2:])
    if min(size) <= radius:
        raise ValueError(f"image size = {size} is not possible: allowed is more than {radius} a side for this blur")
    taps = torch.exp(-((torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2) / 2)
    taps = (taps / taps.sum()).to(image)
    planes = F.pad(image, (radius,) * 4, mode="reflect").flatten(0, 1)[:, None]
    blurred = F.conv2d(F.conv2d(planes, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
    return blurred.view(image.shape)
