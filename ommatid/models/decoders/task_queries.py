"""The queries of OneFormer: what a task asks for, after a first look at the image.

"OneFormer: One Transformer to Rule Universal Image Segmentation" (arXiv 2211.06220).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ommatid.nn.feedforward import MLP
from ommatid.nn.query_attention import QueryAttention
from ommatid.nn.sine_position import sine_position

DROPOUT = 0.1


class Layer(nn.Module):
    """What the layers of both halves of DETR (arXiv 2005.12872) share: branches with a norm and a dropout each.

    pre_norm: norms go in front of the branches rather than behind the additions.
    """

    def __init__(self, dim: int, mlp_dim: int, branches: int, *, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.mlp = MLP(dim, mlp_dim, act=nn.Sequential(nn.ReLU(), nn.Dropout(DROPOUT)))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(branches))
        self.dropout = nn.Dropout(DROPOUT)
        nn.init.xavier_uniform_(self.mlp.fc1.weight)
        nn.init.xavier_uniform_(self.mlp.fc2.weight)

    def added(self, index: int, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        norm = self.norms[index]
        return x + self.dropout(branch(norm(x))) if self.pre_norm else norm(x + self.dropout(branch(x)))


class EncoderLayer(Layer):
    """Cells look at one another, then think each by itself: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, *, pre_norm: bool) -> None:
        super().__init__(dim, mlp_dim, 2, pre_norm=pre_norm)
        self.attention = QueryAttention(dim, heads)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        x = self.added(0, x, lambda cells: self.attention(cells + position, cells + position, cells))
        return self.added(1, x, self.mlp)


class DecoderLayer(Layer):
    """Queries look at one another, at the cells, and think each by itself: (B, Q, C) -> (B, Q, C)."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, *, pre_norm: bool) -> None:
        super().__init__(dim, mlp_dim, 3, pre_norm=pre_norm)
        self.attention, self.cross = QueryAttention(dim, heads), QueryAttention(dim, heads)

    def forward(self, x: Tensor, position: Tensor, key: Tensor, value: Tensor) -> Tensor:
        x = self.added(0, x, lambda queries: self.attention(queries + position, queries + position, queries))
        x = self.added(1, x, lambda queries: self.cross(queries + position, key, value))
        return self.added(2, x, self.mlp)


class TaskQueries(nn.Module):
    """Queries (B, Q, C), all alike at first, that took a first look at a map (B, H, W, C_in) -> (B, Q, C).

    As published the map is what tells places apart, and sine waves are what is to be seen there: DETR's contents and
    positions have changed places.

    Args:
        in_dim: C_in.
        dim: C.
        heads, mlp_dim, pre_norm: of the layers.
        encoder_layers, depth: how many there are for the cells, and for the queries.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        heads: int,
        mlp_dim: int,
        encoder_layers: int,
        depth: int,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.project = nn.Linear(in_dim, dim)
        nn.init.kaiming_uniform_(self.project.weight, a=1)
        nn.init.zeros_(self.project.bias)
        self.encoder = nn.ModuleList(
            EncoderLayer(dim, heads, mlp_dim, pre_norm=pre_norm) for _ in range(encoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()
        self.decoder = nn.ModuleList(DecoderLayer(dim, heads, mlp_dim, pre_norm=pre_norm) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, position: Tensor, features: Tensor) -> Tensor:
        """`position` (Q, C): of the queries."""
        place = self.project(features).flatten(1, 2)
        waves = sine_position(features.shape[1], features.shape[2], self.dim, features.device)
        memory = waves.flatten(0, 1).to(place.dtype).expand_as(place)
        for layer in self.encoder:
            memory = layer(memory, place)
        memory = self.encoder_norm(memory)
        for layer in self.decoder:
            queries = layer(queries, position, memory + place, memory)
        return self.norm(queries)


def with_task(queries: Tensor, task: Tensor) -> Tensor:
    """(B, Q, C) and (B, C) -> (B, Q + 1, C): the task is the last query."""
    return torch.cat([queries, task[:, None]], dim=1)
