"""Multi-head scan: groups of channels, each scanned along four routes of a shape of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.selective_scan import SelectiveScan
from ommatid.ops.scan_routes import ROUTES, Shape, along_routes, by_position

SHAPES: tuple[Shape, ...] = ("snake", "diagonal", "spiral", "raster")


class MultiHeadScan(nn.Module):
    """Selective scans of K projections of the map, one per head, along four routes each: (B, H, W, C) -> the same.

    Of the four answers at a position and channel comes their sum, weighted by how much they differ. From MHS-VM
    (arXiv 2406.05992). Scans run in float32. Cost: 2 H W C^2 multiply-adds, and those of 4 K `SelectiveScan`s of
    C // K channels over H W steps.

    Args:
        dim: C.
        shapes: of the routes, one for each of the K heads: the first ones of "snake", "diagonal", "spiral", "raster".
        state_dim: as in `SelectiveScan`.
        threshold: coefficient of variation up to which four answers count for nothing; below 2, which is the largest.
        out_projection: whether a norm and a linear layer mix the heads; without them K must divide C.

    Raises:
        ValueError: more heads than channels, or K divides C not and there is no projection.
    """

    def __init__(
        self,
        dim: int,
        *,
        shapes: tuple[Shape, ...] = SHAPES,
        state_dim: int = 16,
        threshold: float = 0.5,
        out_projection: bool = True,
    ) -> None:
        super().__init__()
        heads, head_dim = len(shapes), dim // len(shapes)
        if head_dim == 0 or (not out_projection and dim % heads):
            allowed = f"{heads} or more" if out_projection else f"a multiple of the {heads} heads"
            raise ValueError(f"dim = {dim} is not possible: allowed is {allowed}")
        self.shapes, self.threshold = shapes, threshold
        self.proj_in = nn.Linear(dim, heads * head_dim, bias=False)
        self.ssm = SelectiveScan(head_dim, heads * ROUTES, state_dim=state_dim)
        self.norm = nn.LayerNorm(heads * head_dim) if out_projection else nn.Identity()
        self.proj_out = nn.Linear(heads * head_dim, dim, bias=False) if out_projection else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(self.norm(self.scan(self.proj_in(x))))

    def scan(self, projected: Tensor) -> Tensor:
        """(B, H, W, K d) -> (B, H, W, K d)."""
        size = (projected.shape[1], projected.shape[2])
        with torch.autocast(projected.device.type, enabled=False):
            sequences = along_routes(projected.to(self.ssm.D.dtype), self.shapes)
            answers = by_position(self.ssm(sequences), size, self.shapes).unflatten(1, (-1, ROUTES))
            fused = gated_sum(answers, dim=2, threshold=self.threshold)  # (B, K, L, d)
        return fused.transpose(1, 2).flatten(2).unflatten(1, size)


def gated_sum(answers: Tensor, dim: int, *, threshold: float) -> Tensor:
    """Sum over an axis, times how far the coefficient of variation along it is above a threshold.

    The coefficient is the standard deviation over the mean distance from the smallest.
    """
    above = answers - answers.amin(dim, keepdim=True)
    variation = above.std(dim) / (above.mean(dim) + 1e-5)
    return answers.sum(dim) * torch.relu(variation - threshold)
