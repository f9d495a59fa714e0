"""Convolutions as long as the sequence or the map itself, through fast Fourier transforms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ommatid.ops.precision import precise


def long_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """y[i] = sum_j kernel[j] x[i - j] over 0 <= j <= i, along the last axis.

    A kernel of twice the length reaches forward, too: its entry 2 L - j is for x[i + j].
    Computed in float32 (float64 for float64 inputs). Cost: about 15 L log2(2 L) multiply-adds a channel.

    Args:
        x: (..., L). kernel: (..., M), M at most 2 L; the other axes are broadcast.

    Returns:
        (..., L), in the type of x.
    """
    return _padded_conv(x, kernel, (-1,))


def long_conv2d(x: Tensor, kernel: Tensor) -> Tensor:
    """`long_conv` on maps: every position reads those above it and to its left, x (..., H, W), kernel (..., M, N)."""
    return _padded_conv(x, kernel, (-2, -1))


def _padded_conv(x: Tensor, kernel: Tensor, axes: Sequence[int]) -> Tensor:
    """A circular convolution with as many zeros behind each axis as it has entries, cut off again."""
    lengths = [x.shape[axis] for axis in axes]
    doubled = [2 * length for length in lengths]
    spectrum = torch.fft.rfftn(precise(x), s=doubled, dim=axes)
    gain = torch.fft.rfftn(precise(kernel), s=doubled, dim=axes)
    convolved = torch.fft.irfftn(spectrum * gain, s=doubled, dim=axes)
    for axis, length in zip(axes, lengths, strict=True):
        convolved = convolved.narrow(axis, 0, length)
    return convolved.to(x.dtype)
