"""Global spectral filter: every spatial frequency of every channel gets its own complex gain.

Source: GFNet, "Global Filter Networks for Image Classification" (arXiv 2107.00645), as SpectFormer (arXiv 2304.06446)
computes it. It is a depthwise circular convolution as large as the map, for the price of two Fourier transforms.

The gain need not be that of a real kernel, so the inverse transform is defined in two steps: a complex one along the
columns, then one along the rows that reads only the real part of the first column of frequencies and, for even
widths, of the last.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spectral_filter(features: Tensor, gain: Tensor) -> Tensor:
    """Filters a map by fast Fourier transforms, in float32 (float64 for float64 features).

    Args:
        features: (B, H, W, C), real.
        gain: (H, W // 2 + 1, C), complex: of the frequencies that are not mirror images of others.

    Returns:
        (B, H, W, C), in the type of the features.

    Raises:
        ValueError: the gain is not of this map's size.
    """
    _check(features, gain)
    exact = features.to(torch.promote_types(features.dtype, torch.float32))
    spectrum = torch.fft.rfft2(exact, dim=(1, 2), norm="ortho") * gain
    return torch.fft.irfft2(spectrum, s=features.shape[1:3], dim=(1, 2), norm="ortho").to(features.dtype)


def spectral_filter_reference(features: Tensor, gain: Tensor) -> Tensor:
    """`spectral_filter`, by the sums that define the Fourier transform."""
    _check(features, gain)
    height, width = features.shape[1:3]
    exact = features.to(gain.dtype)
    down, across = (_fourier_matrix(length, gain) for length in (height, width))
    across = across[: width // 2 + 1]
    spectrum = torch.einsum("uh,vw,bhwc->buvc", down, across, exact) * gain
    rows = torch.einsum("uh,buvc->bhvc", down.conj(), spectrum)
    mirrored = torch.full((width // 2 + 1, 1), 2.0, dtype=gain.real.dtype, device=gain.device)
    mirrored[0] = 1
    if width % 2 == 0:
        mirrored[-1] = 1
    return torch.einsum("vw,bhvc->bhwc", across.conj() * mirrored, rows).real.to(features.dtype)


def _fourier_matrix(length: int, like: Tensor) -> Tensor:
    """(length, length): exp(-2 pi i u n / length) / sqrt(length)."""
    steps = torch.arange(length, device=like.device)
    turns = (steps[:, None] * steps % length).to(like.real.dtype) / length
    return torch.polar(torch.full_like(turns, length**-0.5), -2 * math.pi * turns)


def _check(features: Tensor, gain: Tensor) -> None:
    _, height, width, channels = features.shape
    wanted = (height, width // 2 + 1, channels)
    if gain.shape != wanted or not gain.is_complex():
        raise ValueError(f"gain must be complex with the shape {wanted} for this map, got {tuple(gain.shape)}")
