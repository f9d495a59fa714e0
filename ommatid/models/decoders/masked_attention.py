"""The transformer decoder of Mask2Former: queries that look only where their own mask was last seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.feedforward import MLP
from ommatid.nn.query_attention import QueryAttention
from ommatid.nn.sine_position import sine_position

LEVELS = 3
"""Maps that the layers look at in turn."""

Prediction = tuple[Tensor, Tensor]
"""Class logits (B, Q, K + 1) and mask logits (B, Q, h, w)."""


class MaskHeads(nn.Module):
    """Queries (B, Q, D) and mask features (B, h, w, C) -> what each query is, and where.

    Args:
        dim: D.
        mask_dim: C.
        num_classes: K.
    """

    def __init__(self, dim: int, mask_dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.mask_embed = perceptron(dim, dim, dim, mask_dim)

    def forward(self, queries: Tensor, mask_features: Tensor) -> Prediction:
        normed = self.norm(queries)
        masks = torch.einsum("bqc,bhwc->bqhw", self.mask_embed(normed), mask_features)
        return self.class_embed(normed), masks


def perceptron(*dims: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between."""
    layers: list[nn.Module] = []
    for in_dim, dim in pairwise(dims):
        layers += [nn.Linear(in_dim, dim), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class QueryBlock(nn.Module):
    """One step of the queries: they look at a map, at one another, and think each by itself.

    Args:
        dim: D.
        heads: of both attentions.
        mlp_dim: inner width.
        pre_norm: norms go in front of the branches rather than behind the additions.
    """

    def __init__(self, dim: int, heads: int, mlp_dim: int, *, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.cross = QueryAttention(dim, heads)
        self.attention = QueryAttention(dim, heads)
        self.mlp = MLP(dim, mlp_dim, act=nn.ReLU())
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        nn.init.xavier_uniform_(self.mlp.fc1.weight)
        nn.init.xavier_uniform_(self.mlp.fc2.weight)

    def forward(self, x: Tensor, position: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
        def looked_around(queries: Tensor) -> Tensor:
            placed = queries + position
            return self.attention(placed, placed, queries)

        x = self._added(0, x, lambda queries: self.cross(queries + position, key, value, allowed))
        x = self._added(1, x, looked_around)
        return self._added(2, x, self.mlp)

    def _added(self, index: int, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        norm = self.norms[index]
        return x + branch(norm(x)) if self.pre_norm else norm(x + branch(x))


class MaskedAttentionDecoder(nn.Module):
    """Mask features (B, h, w, C) and three memories (B, H_i, W_i, C_in) -> predictions, one before each layer and last.

    Args:
        in_dim: C_in.
        dim: D.
        mask_dim: C.
        num_classes: K.
        num_queries: Q.
        depth, heads, mlp_dim, pre_norm: of the layers.
        project: whether memories are projected though C_in is D; they always are where it is not.
        content: whether queries begin as learned vectors; without them only `decode` works, which is told the queries.
    """

    query: nn.Parameter | None

    def __init__(
        self,
        in_dim: int,
        dim: int,
        mask_dim: int,
        num_classes: int,
        *,
        num_queries: int = 100,
        depth: int = 9,
        heads: int = 8,
        mlp_dim: int = 2048,
        pre_norm: bool = False,
        project: bool = False,
        content: bool = True,
    ) -> None:
        super().__init__()
        self.dim = dim
        projected = project or in_dim != dim
        self.projections = nn.ModuleList(nn.Linear(in_dim, dim) if projected else nn.Identity() for _ in range(LEVELS))
        self.level = nn.Parameter(torch.randn(LEVELS, dim))
        self.query = nn.Parameter(torch.randn(num_queries, dim)) if content else None
        self.position = nn.Parameter(torch.randn(num_queries, dim))
        self.blocks = nn.ModuleList(QueryBlock(dim, heads, mlp_dim, pre_norm=pre_norm) for _ in range(depth))
        self.heads = MaskHeads(dim, mask_dim, num_classes)

    def forward(self, mask_features: Tensor, memories: Sequence[Tensor]) -> list[Prediction]:
        assert self.query is not None
        return self.decode(self.query.expand(mask_features.shape[0], -1, -1), mask_features, memories)

    def decode(self, x: Tensor, mask_features: Tensor, memories: Sequence[Tensor]) -> list[Prediction]:
        """As `forward`, from the queries (B, Q, D)."""
        sizes = [(memory.shape[1], memory.shape[2]) for memory in memories]
        values = [
            project(memory).flatten(1, 2) + level
            for project, memory, level in zip(self.projections, memories, self.level, strict=True)
        ]
        keys = [
            value + sine_position(*size, self.dim, value.device).flatten(0, 1)
            for value, size in zip(values, sizes, strict=True)
        ]
        predictions = [self.heads(x, mask_features)]
        for index, block in enumerate(self.blocks):
            level = index % LEVELS
            allowed = visible_cells(predictions[-1][1], sizes[level])
            x = block(x, self.position, keys[level], values[level], allowed)
            predictions.append(self.heads(x, mask_features))
        return predictions


def visible_cells(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, Q, h, w) -> (B, 1, Q, N) bool: the cells of a map inside each query's mask; all where there are none."""
    inside = cells_inside(mask_logits, size)
    return (inside | ~inside.any(-1, keepdim=True))[:, None]


@torch.no_grad()
def cells_inside(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, Q, h, w) -> (B, Q, N) bool: the cells of a map inside each query's mask."""
    resized = F.interpolate(mask_logits, size=size, mode="bilinear", align_corners=False)
    return (resized >= 0).flatten(2)
