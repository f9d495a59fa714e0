"""The feature pyramid network's way down: coarse maps say what is there, fine ones where."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ommatid.nn.conv import Conv2d
from ommatid.ops.resize import resample


class TopDown(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> as many (B, H_i, W_i, dim), each with all coarser ones added.

    "Feature Pyramid Networks for Object Detection" (arXiv 1612.03144).
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Linear(width, dim) for width in channels)
        self.smoothing = nn.ModuleList(Conv2d(dim, dim, 3, padding=1) for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = handed_down([lateral(level) for lateral, level in zip(self.laterals, maps, strict=True)])
        return [smooth(level) for smooth, level in zip(self.smoothing, levels, strict=True)]


def handed_down(levels: Sequence[Tensor]) -> list[Tensor]:
    """Maps (B, H_i, W_i, C), fine to coarse -> each with all coarser ones, enlarged, added."""
    summed = [levels[-1]]
    for level in reversed(levels[:-1]):
        summed.append(level + resample(summed[-1], (level.shape[1], level.shape[2]), mode="bilinear"))
    return summed[::-1]
