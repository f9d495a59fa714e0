"""Axial attention: along one axis of a map, with positions that queries, keys and values each have a word in."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.norm import BatchNorm
from ommatid.ops.refusal import require_map


class AxialAttention(nn.Module):
    """Attention of every cell to its column, or to its row: (B, H, W, C) -> (B, H, W, 2 key_dim).

    Scores are not scaled but batch-normed: those of the contents, and those of query and key with a learned vector for
    each offset. "Axial-DeepLab: Stand-Alone Axial-Attention for Panoptic Segmentation" (arXiv 2003.07853).
    Cost: 4 H W C key_dim + 7 H W L key_dim multiply-adds, L being the side it goes along.

    Args:
        dim: C.
        key_dim: width of the keys over all heads; values are twice as wide.
        heads: number of heads; divides key_dim.
        axis: "height" for columns, "width" for rows.
        span: the longest side, in cells.
        eps: of the batch norms.

    Raises:
        ValueError: the side is longer.
    """

    def __init__(
        self,
        dim: int,
        key_dim: int,
        *,
        heads: int = 8,
        axis: Literal["height", "width"],
        span: int = 255,
        eps: float = 1e-3,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.widths = (key_dim, key_dim, 2 * key_dim)
        self.upright = axis == "height"
        self.span = span
        self.qkv = ConvNorm(dim, 4 * key_dim, 1, eps=eps)
        self.query_position, self.key_position, self.value_position = (
            nn.Parameter(nn.init.trunc_normal_(torch.empty(2 * span - 1, width // heads))) for width in self.widths
        )
        self.score_norm = nn.BatchNorm2d(3 * heads, eps=eps)
        self.norm = BatchNorm(4 * key_dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        # Lines lie along the second axis: (B, L, M, C), M lines of L cells.
        lines = self.qkv(x) if self.upright else self.qkv(x).transpose(1, 2)
        require_map(lines.shape[1] <= self.span, x, f"up to {self.span} cells along the attended axis")
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in lines.split(self.widths, dim=-1))
        places = self._offsets(lines.shape[1])
        to_query, to_key, to_value = (table[places] for table in self._tables())  # (L, L, d)
        scores = [
            torch.einsum("blmnd,bkmnd->bmnlk", query, key),
            torch.einsum("blmnd,lkd->bmnlk", query, to_query),
            torch.einsum("bkmnd,lkd->bmnlk", key, to_key),
        ]
        normed = self.score_norm(torch.cat(scores, dim=2).flatten(0, 1)).unflatten(1, (3, -1)).sum(1)
        weights = normed.softmax(-1).unflatten(0, (x.shape[0], -1))
        contents = torch.einsum("bmnlk,bkmnd->blmnd", weights, value).flatten(3)
        positions = torch.einsum("bmnlk,lkd->blmnd", weights, to_value).flatten(3)
        mixed = self.norm(torch.cat([contents, positions], dim=-1)).unflatten(-1, (2, -1)).sum(-2)
        return mixed if self.upright else mixed.transpose(1, 2)

    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.query_position, self.key_position, self.value_position

    def _offsets(self, length: int) -> Tensor:
        """(L, L): row of the tables for a query and a key, key - query + span - 1."""
        place = torch.arange(length, device=self.query_position.device)
        return place[None] - place[:, None] + self.span - 1
