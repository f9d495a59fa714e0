"""The queries of OneFormer: what a task asks for, after a first look at the image.

"OneFormer: One Transformer to Rule Universal Image Segmentation" (arXiv 2211.06220).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.feedforward import MLP
from ommatid.nn.query_attention import PlacedAttention, QueryAttention
from ommatid.nn.residual import normed_branch
from ommatid.nn.sine_position import sine_position

DROPOUT = 0.1


class PlacedCrossAttention(nn.Module):
    """Queries (B, Q, C) that know their places look at cells: -> (B, Q, C)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = QueryAttention(dim, heads)

    def forward(self, x: Tensor, position: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.attention(x + position, key, value)


class Dropped(nn.Module):
    """What another part gives, less some of it in training."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.dropout = inner, nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        return self.dropout(self.inner(x, *context))


def thinking(dim: int, mlp_dim: int) -> Dropped:
    mlp = MLP(dim, mlp_dim, act=nn.Sequential(nn.ReLU(), nn.Dropout(DROPOUT)))
    nn.init.xavier_uniform_(mlp.fc1.weight)
    nn.init.xavier_uniform_(mlp.fc2.weight)
    return Dropped(mlp)


class EncoderLayer(nn.Module):
    """Cells look at one another, then think each by itself: (B, N, C) -> (B, N, C).

    pre_norm: norms go in front of the branches rather than behind the additions.
    """

    def __init__(self, dim: int, heads: int, mlp_dim: int, *, pre_norm: bool) -> None:
        super().__init__()
        self.attention = normed_branch(dim, Dropped(PlacedAttention(dim, heads)), pre_norm=pre_norm)
        self.mlp = normed_branch(dim, thinking(dim, mlp_dim), pre_norm=pre_norm)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        return self.mlp(self.attention(x, position))


class DecoderLayer(nn.Module):
    """Queries look at one another, at the cells, and think each by itself: (B, Q, C) -> (B, Q, C).

    pre_norm: norms go in front of the branches rather than behind the additions.
    """

    def __init__(self, dim: int, heads: int, mlp_dim: int, *, pre_norm: bool) -> None:
        super().__init__()
        self.attention = normed_branch(dim, Dropped(PlacedAttention(dim, heads)), pre_norm=pre_norm)
        self.cross = normed_branch(dim, Dropped(PlacedCrossAttention(dim, heads)), pre_norm=pre_norm)
        self.mlp = normed_branch(dim, thinking(dim, mlp_dim), pre_norm=pre_norm)

    def forward(self, x: Tensor, position: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.mlp(self.cross(self.attention(x, position), position, key, value))


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
