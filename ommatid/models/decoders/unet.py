"""U-Net's way up: each finer map joined with what comes from below."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ommatid.models.decoders.top_down import normed_conv
from ommatid.ops.resize import resample


class UNet(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> (B, H_0, W_0, dim).

    "U-Net: Convolutional Networks for Biomedical Image Segmentation" (arXiv 1505.04597), with a backbone for its way
    down. Widths double with every level below the finest.

    Args:
        channels: C_i.
        dim: width at the finest level.
        most: widest that a level may be, in multiples of dim.
    """

    def __init__(self, channels: Sequence[int], dim: int, *, most: int = 4) -> None:
        super().__init__()
        widths = [dim * min(2**level, most) for level in range(len(channels))]
        self.bottom = normed_conv(channels[-1], widths[-1], 3)
        self.steps = nn.ModuleList(
            nn.Sequential(
                normed_conv(channels[level] + widths[level + 1], widths[level], 3),
                normed_conv(widths[level], widths[level], 3),
            )
            for level in reversed(range(len(channels) - 1))
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.bottom(maps[-1])
        for step, skip in zip(self.steps, reversed(maps[:-1]), strict=True):
            x = step(torch.cat([resample(x, (skip.shape[1], skip.shape[2]), mode="bilinear"), skip], dim=-1))
        return x
