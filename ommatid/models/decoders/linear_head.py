"""The plainest decoder: every level read by one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ommatid.ops.resize import resample


class LinearHead(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> (B, H_0, W_0, dim): the sum of their projections, normed.

    What linear probes of dense features use. Cost: sum of H_i W_i C_i dim multiply-adds.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(width, dim) for width in channels)
        self.norm = nn.LayerNorm(dim)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = (maps[0].shape[1], maps[0].shape[2])
        projected = [project(level) for project, level in zip(self.projections, maps, strict=True)]
        total = projected[0]
        for level in projected[1:]:
            total = total + resample(level, size, mode="bilinear")
        return self.norm(total)
