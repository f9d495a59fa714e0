"""What is asked of hidden pixels: targets made of an image, and how far answers are from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.methods.pretraining.masking import repeated


def locally_normed(image: Tensor, window: int) -> Tensor:
    """(B, C, H, W), every pixel normed by mean and variance of the window around it, as far as that is in the image.

    From the recipe of Swin Transformer V2 (arXiv 2111.09883). `window` is odd.
    """
    average, deviation = _local(image, window)
    return (image - average) / deviation


def undone(normed: Tensor, image: Tensor, window: int) -> Tensor:
    """What `locally_normed` would make `normed` of, with the mean and variance that `image` has there."""
    average, deviation = _local(image, window)
    return normed * deviation + average


def _local(image: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the window around each pixel."""

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, 1, window // 2, count_include_pad=False)

    count = F.avg_pool2d(torch.ones_like(image[:1, :1]), window, 1, window // 2, divisor_override=1)
    average = mean(image)
    variance = (mean(image.square()) - average.square()) * count / (count - 1)
    return average, (variance.clamp_min(0) + 1e-6).sqrt()


def hidden_pixel_loss(answer: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean error per channel on hidden pixels: answer and target (B, C, H, W), hidden (B, 1, H, W) of 0 and 1 -> ()."""
    error = (target - answer).abs() * hidden
    return error.sum() / (hidden.sum() + 1e-5) / target.shape[1]


def patchify(image: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, N, p p C): whole patches of p a side, row-major; values by row, column and channel."""
    rows = image.unflatten(-1, (-1, patch_size)).unflatten(-3, (-1, patch_size))  # (B, C, h, p, w, p)
    return rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def normed_patches(patches: Tensor) -> Tensor:
    """Patches (..., D), each normed by mean and unbiased variance of its values. From MAE (arXiv 2111.06377)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def with_patch_statistics(normed: Tensor, image: Tensor, patch_size: int) -> Tensor:
    """The image whose patches normed are `normed`, with mean and variance of those of `image`; all (B, C, H, W)."""
    variance, mean = torch.var_mean(patchify(image, patch_size), dim=-1)
    rows = image.shape[-2] // patch_size
    deviation, mean = (
        repeated(value.unflatten(1, (rows, -1)), patch_size).unsqueeze(1) for value in ((variance + 1e-6).sqrt(), mean)
    )
    return normed * deviation + mean


def hidden_patch_loss(answer: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error of hidden patches: answer and target (B, N, D), hidden (B, N) booleans -> (); 0 for none."""
    error = (answer - target).square().mean(-1)
    return (error * hidden).sum() / (hidden.sum() + 1e-8)
