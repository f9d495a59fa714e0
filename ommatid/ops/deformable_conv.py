"""Convolution whose taps are where each position wants them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_conv(x: Tensor, offsets: Tensor, weights: Tensor, kernel: Tensor) -> Tensor:
    """A convolution of stride 1 that keeps the size, its taps moved and weighed at every position.

    Modulated deformable convolution (arXiv 1811.11168). Values between cells are bilinear, cells outside count as 0.

    Args:
        x: (B, H, W, C).
        offsets: (B, H, W, T, 2), how far down and to the right each of the T taps is moved, in cells; row-major taps.
        weights: (B, H, W, T), of the taps.
        kernel: (D, C, k, k) with T = k^2, k odd.

    Returns:
        (B, H, W, D).
    """
    batch, rows, columns, channels = x.shape
    taps, reach = weights.shape[-1], kernel.shape[-1] // 2
    steps = torch.arange(-reach, reach + 1, device=x.device)
    tap = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).flatten(0, 1)
    sides = [torch.arange(side, device=x.device) for side in (rows, columns)]
    cell = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1)[:, :, None]
    place = (cell + tap + offsets.float()).flip(-1)
    shares = (2 * place + 1) / torch.tensor([columns, rows], device=x.device) - 1
    maps = x.permute(0, 3, 1, 2).contiguous()
    sampled = F.grid_sample(maps, shares.flatten(2, 3).to(x.dtype), align_corners=False)  # (B, C, H, W T)
    weighed = sampled.view(batch, channels, rows * columns, taps) * weights.view(batch, 1, rows * columns, taps)
    return torch.einsum("bcnt,dct->bnd", weighed, kernel.flatten(2)).view(batch, rows, columns, -1)
