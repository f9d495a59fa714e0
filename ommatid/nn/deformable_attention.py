"""Multi-scale deformable attention: each query looks at a few places of every map, wherever it wants them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ommatid.ops.deformable_attention import Sizes, deformable_attention


class DeformableAttention(nn.Module):
    """Queries (B, Q, C) and the cells (B, N, C) of several maps -> (B, Q, C).

    "Deformable DETR: Deformable Transformers for End-to-End Object Detection" (arXiv 2010.04159).
    Cost: (2 N + 2 Q) C^2 + Q C heads levels points 3 multiply-adds, and 4 Q levels points C for the sampling.

    Args:
        dim: C.
        heads: number of heads; divides C.
        levels: number of maps.
        points: places that a head looks at in each map.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int = 4) -> None:
        super().__init__()
        self.shape = (heads, levels, points)
        places = heads * levels * points
        self.offsets = nn.Linear(dim, 2 * places)
        self.weights = nn.Linear(dim, places)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.init_()

    def init_(self) -> None:
        """Heads look around in a circle of directions, their points 1, 2, ... cells away, all alike important."""
        heads, _, points = self.shape
        angles = torch.arange(heads) * (2 * math.pi / heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        reach = directions[:, None, None] * torch.arange(1, points + 1)[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_(reach.expand(*self.shape, 2).flatten())
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.weights.bias)
        for layer in (self.value, self.proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        tokens: Tensor,
        sizes: Sizes,
        box_sides: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            query: (B, Q, C). tokens: (B, N, C), the cells of all maps, one map after another.
            reference: (x, y) where a query is, as shares of a map's sides; broadcastable to (B, Q, 2), or to
                (B, Q, levels, 2) where it is not the same in all.
            sizes: (rows, columns) of each map.
            box_sides: (B, Q, 2) or by level too, (width, height) of the query's box: offsets are then counted in halves
                of them, over the number of points; in cells of each map where None.
            valid: (B, N) booleans, false for cells that count as 0; all are valid where None.
        """
        heads, _, points = self.shape
        offsets = self.offsets(query).unflatten(-1, (*self.shape, 2))
        weights = self.weights(query).unflatten(-1, (heads, -1)).softmax(-1).unflatten(-1, self.shape[1:])
        if box_sides is None:
            sides = torch.tensor([(columns, rows) for rows, columns in sizes], device=query.device)
            steps = offsets / sides[:, None]
        else:
            steps = offsets * by_level(box_sides) * (0.5 / points)
        locations = by_level(reference) + steps
        values = self.value(tokens)
        if valid is not None:
            values = values * valid[..., None]
        values = values.unflatten(-1, (heads, -1))
        return self.proj(deformable_attention(values, sizes, locations, weights))


def by_level(pairs: Tensor) -> Tensor:
    """(B, Q, 2), or (B, Q, levels, 2) -> (B, Q, 1, 1 or levels, 1, 2)."""
    return (pairs[:, :, None] if pairs.dim() == 3 else pairs)[:, :, None, :, None]
