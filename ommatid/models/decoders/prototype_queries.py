"""The query decoder of PEM: each query looks at one cell of its mask, the one that is most like it.

"PEM: Prototype-based Efficient MaskFormer for Image Segmentation" (arXiv 2402.19422).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.decoders.masked_attention import LEVELS, MaskHeads, Prediction, cells_inside
from ommatid.nn.conv import depthwise_conv
from ommatid.nn.feedforward import MLP
from ommatid.nn.norm import BatchNorm2d
from ommatid.nn.query_attention import PlacedAttention
from ommatid.nn.residual import normed_branch
from ommatid.nn.sine_position import sine_position


class PrototypeAttention(nn.Module):
    """Queries (B, Q, C) and a map (B, H, W, C) -> what the queries learn from it, (B, Q, C).

    In each head a query meets the cell most like it, its prototype: that chooses, and has no gradient. What a query
    learns depends on the others: products of queries and prototypes are normed over all queries, as published.
    Cost: H W (C^2 + 9 C) + H W Q C + 3 Q C^2 multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = BatchNorm2d(dim)
        self.local = depthwise_conv(dim, 3)
        self.key = nn.Linear(dim, dim)
        self.query_norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.mix = nn.Linear(dim, dim)
        self.alpha = nn.Parameter(torch.ones(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, features: Tensor, inside: Tensor) -> Tensor:
        """`inside` (B, Q, H W): True where a query may look. One that may look nowhere meets the first cell, unless no
        query of the image may look anywhere: then all look everywhere."""
        key = F.normalize(self.key(self.local(self.norm(features)).flatten(1, 2)), dim=-1)
        query = F.normalize(self.query(self.query_norm(queries)), dim=-1)
        prototype = self.prototypes(query, key, inside | ~inside.any((1, 2), keepdim=True))
        return self.proj(F.normalize(self.mix(prototype * query), dim=1) * self.alpha + prototype)

    def prototypes(self, query: Tensor, key: Tensor, allowed: Tensor) -> Tensor:
        """(B, Q, C), (B, N, C), (B, Q, N) -> (B, Q, C): each head's part of the key most like the query's."""
        query, key = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key))
        with torch.no_grad():
            likeness = (query @ key.mT).masked_fill(~allowed[:, None], -torch.inf)
            chosen = likeness.argmax(-1, keepdim=True)
        met = key.gather(2, chosen.expand(-1, -1, -1, key.shape[-1]))
        return met.transpose(1, 2).flatten(2)


class PrototypeBlock(nn.Module):
    """One step of the queries: they look at a map, at one another, and think each by itself.

    Args:
        dim: D.
        heads: of both attentions.
        mlp_dim: inner width.
        pre_norm: norms go in front of the last two branches rather than behind the additions; the first has none.
    """

    def __init__(self, dim: int, heads: int, mlp_dim: int, *, pre_norm: bool) -> None:
        super().__init__()
        self.cross = PrototypeAttention(dim, heads)
        mlp = MLP(dim, mlp_dim, act=nn.ReLU())
        self.attention = normed_branch(dim, PlacedAttention(dim, heads), pre_norm=pre_norm)
        self.mlp = normed_branch(dim, mlp, pre_norm=pre_norm)
        nn.init.xavier_uniform_(mlp.fc1.weight)
        nn.init.xavier_uniform_(mlp.fc2.weight)

    def forward(self, x: Tensor, position: Tensor, features: Tensor, inside: Tensor) -> Tensor:
        x = x + self.cross(x + position, features, inside)
        return self.mlp(self.attention(x, position))


class PrototypeDecoder(nn.Module):
    """Mask features (B, h, w, C) and three memories (B, H_i, W_i, C_in) -> predictions, one before each layer and last.

    Under autocast too all is computed in the precision of the weights: the nearest of many is chosen, and masks get
    thresholded.

    Args:
        in_dim: C_in.
        dim: D.
        mask_dim: C.
        num_classes: K.
        num_queries: Q.
        depth, heads, mlp_dim, pre_norm: of the layers.
        project: whether memories are projected though C_in is D; they always are where it is not.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        mask_dim: int,
        num_classes: int,
        *,
        num_queries: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        pre_norm: bool,
        project: bool,
    ) -> None:
        super().__init__()
        self.dim = dim
        projected = project or in_dim != dim
        self.projections = nn.ModuleList(nn.Linear(in_dim, dim) if projected else nn.Identity() for _ in range(LEVELS))
        for layer in self.projections.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.level = nn.Parameter(torch.randn(LEVELS, dim))
        self.query = nn.Parameter(torch.randn(num_queries, dim))
        self.position = nn.Parameter(torch.randn(num_queries, dim))
        self.blocks = nn.ModuleList(PrototypeBlock(dim, heads, mlp_dim, pre_norm=pre_norm) for _ in range(depth))
        self.heads = MaskHeads(dim, mask_dim, num_classes)

    def forward(self, mask_features: Tensor, memories: Sequence[Tensor]) -> list[Prediction]:
        with torch.autocast(mask_features.device.type, enabled=False):
            return self._decode(mask_features, memories)

    def _decode(self, mask_features: Tensor, memories: Sequence[Tensor]) -> list[Prediction]:
        sizes = [(memory.shape[1], memory.shape[2]) for memory in memories]
        placed = [
            project(memory) + level + sine_position(*size, self.dim, memory.device)
            for project, memory, level, size in zip(self.projections, memories, self.level, sizes, strict=True)
        ]
        x = self.query.expand(mask_features.shape[0], -1, -1)
        predictions = [self.heads(x, mask_features)]
        for index, block in enumerate(self.blocks):
            level = index % LEVELS
            inside = cells_inside(predictions[-1][1], sizes[level])
            x = block(x, self.position, placed[level], inside)
            predictions.append(self.heads(x, mask_features))
        return predictions
