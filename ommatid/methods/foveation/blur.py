"""A blur that grows with the distance from the fixation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ommatid.models.config import require_positive
from ommatid.ops.gaussian_blur import blur_radius, gaussian_blur
from ommatid.ops.log_polar import LogPolar


class FoveatedBlur(NamedTuple):
    """blurred (B, C, H, W). weights (N + 1, H, W), sums 1: of the sharp image, then of each ring. sigmas (N,)."""

    blurred: Tensor
    weights: Tensor
    sigmas: Tensor


def foveated_blur(image: Tensor, place: LogPolar, rate: float) -> FoveatedBlur:
    """Sharp inside the first ring; each ring blurred by a Gaussian of `rate` times its distance, rings blended.

    Beyond the last ring its blur goes on. The kernel widths are a natural reading: the paper has no code for this.

    Args:
        image: (B, C, H, W).
        place: fixation and rings; angles mean nothing.
        rate: standard deviation of a blur in units of the distance, above 0.
    """
    require_positive(rate=rate)
    size = (image.shape[2], image.shape[3])
    rings, fovea = place.ring_weights(size), place.fovea(size)
    rest = (1 - fovea - rings.sum(0)).clamp(min=0)
    weights = torch.cat([fovea[None], rings[:-1], rings[-1:] + rest]).to(image)
    sigmas = [rate * place.centre(ring) for ring in range(place.rings)]
    blurred = weights[0] * image
    for weight, sigma in zip(weights[1:], sigmas, strict=True):
        blurred = blurred + weight * gaussian_blur(image, sigma, min(blur_radius(sigma), min(size) - 1))
    return FoveatedBlur(blurred, weights, image.new_tensor(sigmas))
