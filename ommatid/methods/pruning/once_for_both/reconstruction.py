"""Masked image modelling on locally normed pixels, as Once for Both (arXiv 2403.15835) keeps features rich by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 47


def hidden_patches(noise: Tensor, keep_ratio: float) -> Tensor:
    """(B, N) noise -> (B, N): 0 for the int(N * keep_ratio) patches of the lowest noise, 1 for the hidden others."""
    kept = noise.argsort(1)[:, : int(noise.shape[1] * keep_ratio)]
    return torch.ones_like(noise).scatter_(1, kept, 0.0)


def locally_normed(image: Tensor, window: int = WINDOW) -> Tensor:
    """(B, C, H, W), every pixel normed by mean and variance of the window around it, as far as that is in the image."""

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, 1, window // 2, count_include_pad=False)

    count = F.avg_pool2d(torch.ones_like(image[:1, :1]), window, 1, window // 2, divisor_override=1)
    average = mean(image)
    variance = (mean(image.square()) - average.square()) * count / (count - 1)
    return (image - average) / (variance.clamp_min(0) + 1e-6).sqrt()


def reconstruction_loss(answer: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
    """Mean error per channel on hidden pixels: answer and image (B, 3, H, W), hidden (B, 1, H, W) of 0 and 1 -> ()."""
    error = (locally_normed(image) - answer).abs() * hidden
    return error.sum() / (hidden.sum() + 1e-5) / image.shape[1]
