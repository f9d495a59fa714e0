"""SS2D: selective scans along the directions of a map, on one resolution or on two."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.nn.deploy import scale_output_
from ommatid.nn.selective_scan import SelectiveScan
from ommatid.ops.cross_scan import Direction, cross_merge, cross_scan
from ommatid.ops.resize import resample

Directions = tuple[Direction, ...]

ALL_DIRECTIONS: Directions = ("right", "down", "left", "up")
# By the number of directions on the whole map: those, and the ones on the map of half its size.
SPLITS: dict[int, tuple[Directions, Directions]] = {
    1: (("right",), ("left", "down", "up")),
    2: (("right", "down"), ("left", "up")),
    3: (("right", "down", "left"), ("up",)),
}


class SS2D(nn.Module):
    """A gated selective scan of the whole map: (B, H, W, C) -> (B, H, W, C).

    VMamba (arXiv 2401.10166). Cost: 3 H W C E multiply-adds, and those of the scan.

    Args:
        dim: C.
        inner_dim: E, width of the scan and of the gate.
        scan: (B, H, W, E) -> the same: `CrossScan` or `MultiScaleScan`.
        act: of the gate; SiLU where None.
        excite: channel attention between scan and gate; none where None.
    """

    def __init__(
        self,
        dim: int,
        inner_dim: int,
        scan: nn.Module,
        *,
        act: nn.Module | None = None,
        excite: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, 2 * inner_dim, bias=False)
        self.scan = scan
        self.act = act or nn.SiLU()
        self.excite = excite or nn.Identity()
        self.proj_out = nn.Linear(inner_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        features, gate = self.proj_in(x).chunk(2, dim=-1)
        return self.proj_out(self.excite(self.scan(features)) * self.act(gate))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj_out, scale)


class CrossScan(nn.Module):
    """3x3 depthwise convolution, activation, scans in all four directions, their sum, norm: (B, H, W, E) -> the same.

    From VMamba (arXiv 2401.10166). Cost: 9 H W E multiply-adds and those of four `SelectiveScan`s over H W steps.

    Args:
        dim: E.
        state_dim, dt_rank: as in `SelectiveScan`.
        act: SiLU where None.
    """

    def __init__(
        self, dim: int, *, state_dim: int = 1, dt_rank: int | None = None, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = depthwise_conv(dim, 3)
        self.act = act or nn.SiLU()
        self.ssm = SelectiveScan(dim, len(ALL_DIRECTIONS), state_dim=state_dim, dt_rank=dt_rank)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        features = self.act(self.conv(x))
        return self.norm(scanned(features, ALL_DIRECTIONS, self.ssm))


class MultiScaleScan(nn.Module):
    """Some directions on the whole map, the others on one of half its size: (B, H, W, E) -> (B, H, W, E).

    The coarse directions are one sequence, scanned with the state running on from one into the next; the norm, which
    both branches share, comes before their sum there and after it on the whole map. From MSVMamba (arXiv 2405.14174).
    Cost: (9 + 49 / 4) H W E multiply-adds and those of scans over H W (fine + (4 - fine) / 4) steps.

    Args:
        dim: E.
        fine: number of directions on the whole map, 1 to 3.
        state_dim, dt_rank: as in `SelectiveScan`.
    """

    def __init__(self, dim: int, *, fine: int = 1, state_dim: int = 1, dt_rank: int | None = None) -> None:
        super().__init__()
        self.conv = depthwise_conv(dim, 3)
        self.coarse_conv = depthwise_conv(dim, 7, stride=2)
        self.fine_directions, self.coarse_directions = SPLITS[fine]
        self.fine_ssm = SelectiveScan(dim, fine, state_dim=state_dim, dt_rank=dt_rank)
        self.coarse_ssm = SelectiveScan(dim, 1, state_dim=state_dim, dt_rank=dt_rank)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        fine = self.norm(scanned(F.silu(self.conv(x)), self.fine_directions, self.fine_ssm))
        coarse = scanned(F.silu(self.coarse_conv(x)), self.coarse_directions, self.scan_as_one)
        return fine + resample(coarse, size, mode="bilinear")

    def scan_as_one(self, sequences: Tensor) -> Tensor:
        """(B, K, L, E) -> the same, normed: the K sequences one after another."""
        joined = sequences.flatten(1, 2).unsqueeze(1)
        return self.norm(self.coarse_ssm(joined)).view(sequences.shape)


def scanned(features: Tensor, directions: Directions, scan: Callable[[Tensor], Tensor]) -> Tensor:
    """Scans a map (B, H, W, E) along some directions; the sum of what comes back to each position, (B, H, W, E)."""
    size = (features.shape[1], features.shape[2])
    return cross_merge(scan(cross_scan(features, directions)), size, directions)
