"""Spectral gating: tokens are mixed by a learned gain for every spatial frequency."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.ops.refusal import require_map
from ommatid.ops.spectral_filter import spectral_filter


class SpectralGate(nn.Module):
    """A complex gain per frequency and channel, between two Fourier transforms: (B, H, W, C) -> (B, H, W, C).

    GFNet (arXiv 2107.00645), SpectFormer (arXiv 2304.06446). The map's size is fixed. Cost: about
    5 H W C log2(H W) multiply-adds for the transforms and 2 H W C for the gain.

    Args:
        dim: C.
        size: (H, W).

    Raises:
        ValueError: in the forward pass, a map of another size.
    """

    def __init__(self, dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        rows, columns = size
        self.gain = nn.Parameter(0.02 * torch.randn(rows, columns // 2 + 1, dim, 2))  # (real, imaginary) last

    def forward(self, x: Tensor) -> Tensor:
        require_map(tuple(x.shape[1:3]) == self.size, x, f"{self.size}, fixed by the gain")
        return spectral_filter(x, torch.view_as_complex(self.gain))
