"""Convolution with kernels of each position's own, shared by groups of channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dynamic_conv(features: Tensor, kernels: Tensor) -> Tensor:
    """Sums the K x K neighbours of every position, weighted by that position's own kernels.

    The small-kernel aggregation of LSNet (arXiv 2503.23135). Neighbours outside the map are zeros.
    Cost: K^2 H W C multiply-adds.

    Args:
        features: (B, H, W, C).
        kernels: (B, H, W, K * K, G), row-major, K odd; channel c reads kernel c modulo G. (B, 1, 1, K * K, G) where all
            positions have the same.

    Returns:
        (B, H, W, C).
    """
    height, width = features.shape[1:3]
    size, groups = round(kernels.shape[3] ** 0.5), kernels.shape[4]
    half = size // 2
    grouped = F.pad(features, (0, 0, half, half, half, half)).unflatten(-1, (-1, groups))
    output = torch.zeros((), dtype=features.dtype, device=features.device)
    for tap, kernel in enumerate(kernels.unbind(3)):
        row, column = divmod(tap, size)
        output = torch.addcmul(output, grouped[:, row : row + height, column : column + width], kernel.unsqueeze(3))
    return output.flatten(3)


def dynamic_conv_reference(features: Tensor, kernels: Tensor) -> Tensor:
    """The same by its definition: every neighbour gathered, every channel given its kernel, then one sum."""
    batch, height, width, channels = features.shape
    taps, groups = kernels.shape[3:]
    size = round(taps**0.5)
    neighbors = F.unfold(features.permute(0, 3, 1, 2), size, padding=size // 2)
    neighbors = neighbors.view(batch, channels, taps, height, width).permute(0, 3, 4, 2, 1)
    return (neighbors * kernels[..., torch.arange(channels, device=kernels.device) % groups]).sum(3)
