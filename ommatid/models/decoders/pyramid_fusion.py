"""Maps of a pyramid fused from the coarsest on, through narrow residual units."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ommatid.models.decoders.deformable_pixels import GROUPS, xavier_conv
from ommatid.nn.conv import Conv2d
from ommatid.nn.norm import GroupNorm
from ommatid.ops.resize import resample_corners

HIDDEN = 64


class ResidualUnit(nn.Module):
    """A map and what a narrow 3x3 convolution makes of it: (B, H, W, C) -> (B, H, W, C). Activations come first.

    Cost: H W (2 C + 9 * 64) 64 multiply-adds.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduce = Conv2d(dim, HIDDEN, 1)
        self.conv = Conv2d(HIDDEN, HIDDEN, 3, padding=1)
        self.expand = Conv2d(HIDDEN, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.conv(self.reduce(x.relu()).relu()).relu())


class Fusion(nn.Module):
    """One step down the pyramid: (B, H, W, C) and the coarser (B, h, w, C) -> (B, H, W, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.smooth = Conv2d(dim, dim, 1)
        self.before = ResidualUnit(dim)
        self.after = ResidualUnit(dim)

    def forward(self, features: Tensor, coarser: Tensor) -> Tensor:
        size = (features.shape[1], features.shape[2])
        return self.after(self.smooth(resample_corners(coarser, size)) + self.before(features))


class PyramidFusion(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> (B, H_i, W_i, C), COARSE TO FINE.

    The efficient pyramid feature fusion of ViDT+ (arXiv 2204.07962). Of the coarsest step the parts that would join a
    coarser map are kept, frozen, so that weights and counts agree with the published ones.

    Args:
        channels: C_i.
        dim: C, a multiple of 32.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(xavier_conv(width, dim), GroupNorm(GROUPS, dim)) for width in channels
        )
        self.steps = nn.ModuleList(Fusion(dim) for _ in channels)
        coarsest = self.steps[-1]
        assert isinstance(coarsest, Fusion)
        for unread in (coarsest.smooth, coarsest.before):
            unread.requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        projected = [project(level) for project, level in zip(self.projections, maps, strict=True)]
        *finer_steps, coarsest = self.steps
        assert isinstance(coarsest, Fusion)
        path = coarsest.after(projected[-1])
        fused = [path]
        for step, level in zip(reversed(finer_steps), reversed(projected[:-1]), strict=True):
            path = step(level, path)
            fused.append(path)
        return fused
