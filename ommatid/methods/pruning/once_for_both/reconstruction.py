"""Masked image modelling on locally normed pixels, as Once for Both (arXiv 2403.15835) keeps features rich by."""

from __future__ import annotations

from torch import Tensor

from ommatid.methods.pretraining.masking import lowest
from ommatid.methods.pretraining.pixels import hidden_pixel_loss, locally_normed

WINDOW = 47


def hidden_patches(noise: Tensor, keep_ratio: float) -> Tensor:
    """(B, N) noise -> (B, N): 0 for the int(N * keep_ratio) patches of the lowest noise, 1 for the hidden others."""
    return 1 - lowest(noise, int(noise.shape[1] * keep_ratio)).to(noise.dtype)


def reconstruction_loss(answer: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
    """Mean error per channel on hidden pixels: answer and image (B, 3, H, W), hidden (B, 1, H, W) of 0 and 1 -> ()."""
    return hidden_pixel_loss(answer, locally_normed(image, WINDOW), hidden)
