"""The discrete cosine transform, type II and orthonormal, and its inverse, through fast Fourier transforms."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dct(x: Tensor) -> Tensor:
    """X_k = w_k sum_n x_n cos(pi k (2 n + 1) / 2 N) along the last axis, w_0 = sqrt(1 / N), other w_k = sqrt(2 / N).

    "A Fast Cosine Transform in One and Two Dimensions" (Makhoul, 1980): a Fourier transform of as many numbers, the
    even ones first and then the odd ones backwards. Float32 or float64. (..., N) -> (..., N).
    """
    count = x.shape[-1]
    ordered = torch.cat([x[..., 0::2], x[..., 1::2].flip(-1)], dim=-1)
    return (torch.fft.fft(ordered) * _turns(count, x).conj()).real * _weights(count, x)


def idct(x: Tensor) -> Tensor:
    """Undoes `dct`: (..., N) -> (..., N)."""
    count = x.shape[-1]
    scaled = x / _weights(count, x)
    mirrored = torch.cat([torch.zeros_like(x[..., :1]), scaled[..., 1:].flip(-1)], dim=-1)
    ordered = torch.fft.ifft(torch.complex(scaled, -mirrored) * _turns(count, x)).real
    even, odd = ordered.split([(count + 1) // 2, count // 2], dim=-1)
    places = torch.arange(count, device=x.device)
    return torch.cat([even, odd.flip(-1)], dim=-1)[..., places // 2 + places % 2 * even.shape[-1]]


def _turns(count: int, like: Tensor) -> Tensor:
    """(N,): exp(i pi k / 2 N)."""
    angles = torch.arange(count, device=like.device, dtype=like.dtype) * (math.pi / (2 * count))
    return torch.polar(torch.ones_like(angles), angles)


def _weights(count: int, like: Tensor) -> Tensor:
    weights = like.new_full((count,), (2 / count) ** 0.5)
    weights[0] = (1 / count) ** 0.5
    return weights
