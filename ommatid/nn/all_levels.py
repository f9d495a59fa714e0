"""Every level of a pyramid at the resolution of one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ommatid.ops.resize import resample


class AllLevels(nn.Module):
    """The maps of all levels, finest first, side by side at one: (B, H, W, levels * C), with its size and C channels.

    Args:
        dims: channels of each level.
        level: the one.
        order: of the levels, side by side.
    """

    def __init__(self, dims: Sequence[int], level: int, order: Sequence[int], *, bias: bool) -> None:
        super().__init__()
        self.level, self.order = level, order
        self.projections = nn.ModuleList(nn.Linear(dims[other], dims[level], bias=bias) for other in order)

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = (maps[self.level].shape[1], maps[self.level].shape[2])
        resize = partial(resample, size=size, mode="bilinear", antialias=True)
        # The projection and the resampling of pixels commute: the first is on the smaller of the two maps.
        return torch.cat(
            [
                resize(project(maps[other])) if other > self.level else project(resize(maps[other]))
                for project, other in zip(self.projections, self.order, strict=True)
            ],
            dim=-1,
        )
