"""What restored pictures are compared with: what is reached without a network, and where."""

from __future__ import annotations

from torch import Tensor

from ommatid.ops.bicubic import enlarge_bicubic


def without_network(degraded: Tensor, scale: int) -> Tensor:
    """The degraded picture as it is, or enlarged by the bicubic filter.

    (..., 3, H, W) -> (..., 3, scale H, scale W), values from 0 to 1.
    """
    return (enlarge_bicubic(degraded, scale) if scale > 1 else degraded).clamp(0, 1)


def border(scale: int) -> int:
    """Pixels along each side that PSNR and SSIM leave out: as the literature does it, of enlarged pictures alone."""
    return scale if scale > 1 else 0
