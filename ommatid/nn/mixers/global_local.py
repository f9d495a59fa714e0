"""Global-local filter: half of the channels are filtered by frequency, the other half by a small kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.nn.residual import MakeNorm
from ommatid.ops.spectral_filter import spectral_filter


class GlobalLocalFilter(nn.Module):
    """A complex gain per frequency beside a 3x3 depthwise convolution, between norms: (B, H, W, C) -> (B, H, W, C).

    HorNet (arXiv 2207.14284). Outputs of the two halves of the channels alternate. The gains are resampled for a map of
    another size. Cost: about 5 / 2 H W C log2(H W) multiply-adds for the transforms and 11 / 2 H W C for the rest.

    Args:
        dim: C, even.
        spectrum: rows and columns of the gains: (H, W // 2 + 1) for maps of the size (H, W).
        norm: makes the norm of a width.
    """

    def __init__(self, dim: int, spectrum: tuple[int, int], *, norm: MakeNorm = nn.LayerNorm) -> None:
        super().__init__()
        half = dim // 2
        self.pre_norm = norm(dim)
        self.local = depthwise_conv(half, 3, bias=False)
        self.gain = nn.Parameter(torch.empty(*spectrum, half, 2))  # (real, imaginary) last
        self.post_norm = norm(dim)
        nn.init.trunc_normal_(self.gain, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        near, far = self.pre_norm(x).chunk(2, dim=-1)
        gain = resample_gain(self.gain, (x.shape[1], x.shape[2] // 2 + 1))
        mixed = [self.local(near), spectral_filter(far, torch.view_as_complex(gain)).to(near.dtype)]
        return self.post_norm(torch.stack(mixed, dim=-1).flatten(-2))


def resample_gain(gain: Tensor, spectrum: tuple[int, int]) -> Tensor:
    """(h, w, C, 2) -> (h', w', C, 2): gains for a spectrum of another size, bilinear between its corners."""
    if gain.shape[:2] == spectrum:
        return gain
    channels_first = gain.flatten(2).permute(2, 0, 1).unsqueeze(0)
    resized = F.interpolate(channels_first, size=spectrum, mode="bilinear", align_corners=True)
    return resized.squeeze(0).permute(1, 2, 0).unflatten(-1, gain.shape[2:]).contiguous()
