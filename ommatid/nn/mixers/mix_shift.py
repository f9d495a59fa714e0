"""Mix-shift: groups of channels are shifted by different distances, then mixed by kernels of different sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv


class MixShift(nn.Module):
    """Shifted depthwise convolutions along both axes, added: (B, H, W, C) -> (B, H, W, C).

    MS-MLP (arXiv 2202.06510). Each group of channels is rolled around the map by its own distance, once along the
    width and once along the height, and goes through a convolution of its own kernel size each time.
    Cost: 2 H W sum(c_g k_g^2) multiply-adds for groups of c_g channels with kernels of k_g x k_g.

    Args:
        dim: C. Groups have ceil(C / groups) channels, the last one what is left; see `group_widths`.
        shifts: distance of each group, in tokens to the right or down.
        kernel_sizes: k_g of each group, odd.
    """

    def __init__(self, dim: int, shifts: Sequence[int], kernel_sizes: Sequence[int]) -> None:
        super().__init__()
        self.shifts = tuple(shifts)
        self.widths = group_widths(dim, len(self.shifts))
        groups = list(zip(self.widths, kernel_sizes, strict=True))
        self.across = nn.ModuleList(depthwise_conv(width, kernel_size) for width, kernel_size in groups)
        self.down = nn.ModuleList(depthwise_conv(width, kernel_size) for width, kernel_size in groups)

    def forward(self, x: Tensor) -> Tensor:
        groups = zip(x.split(self.widths, dim=-1), self.shifts, self.across, self.down, strict=True)
        return torch.cat(
            [across(group.roll(shift, 2)) + down(group.roll(shift, 1)) for group, shift, across, down in groups], dim=-1
        )


def group_widths(dim: int, groups: int) -> list[int]:
    """Channels of each group: all of ceil(dim / groups) but the last, which may even be missing."""
    width = -(-dim // groups)
    return [min(width, dim - start) for start in range(0, dim, width)]
