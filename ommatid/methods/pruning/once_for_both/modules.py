"""A vision transformer's parts with sizes to be searched: each multiplies its units by importance and mask."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ommatid.methods.pruning.once_for_both.choice import (
    Choice,
    embedding_sizes,
    head_counts,
    head_widths,
    hidden_sizes,
)
from ommatid.methods.pruning.once_for_both.gather import gather_
from ommatid.models.config import require
from ommatid.ops.attention import attend

AttentionSearch = Literal["joint", "channel", "head"]


class Searchable(nn.Module):
    """Base of the parts: what they have in common is a choice, and the weight of importance against the mask."""

    choice: Choice
    importance_weight: float = 0.99

    def multiplier(self) -> Tensor:
        return self.choice.multiplier(self.importance_weight)

    def compress(self, threshold: float, optimizer: Optimizer | None = None) -> None:
        """One closing step: improbable options are closed, and units that none keeps are cut off."""
        if self.choice.close(threshold):
            kept = self.choice.cut(self.importance_weight, optimizer)
            if kept is not None:
                self.keep(*kept, optimizer=optimizer)

    def keep(self, rows: Tensor, columns: Tensor, optimizer: Optimizer | None = None) -> None:
        """Leaves these units, in this order: rows (R',) and the columns of each (R', C')."""
        raise NotImplementedError


class SearchMLP(Searchable):
    """An MLP whose hidden units are searched: (..., D) -> (..., D). They are multiplied before the GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.choice = Choice([1], hidden_sizes(hidden), (1, hidden))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x) * self.multiplier().flatten()))

    def keep(self, rows: Tensor, columns: Tensor, optimizer: Optimizer | None = None) -> None:
        units = columns.flatten()
        for name in ("weight", "bias"):
            gather_(self.fc1, name, units, 0, optimizer)
        gather_(self.fc2, "weight", units, 1, optimizer)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """Once finished: the same function without scores."""
        scale = self.choice.score.flatten()
        self.fc1.weight.mul_(scale[:, None])
        self.fc1.bias.mul_(scale)
        return nn.Sequential(self.fc1, nn.GELU(), self.fc2)


class SearchAttention(Searchable):
    """Self-attention whose heads and channels are searched: (B, N, D) -> (B, N, D).

    Queries, keys and values share a mask (heads, channels); the scale of scores stays that of the original width.
    With `search` "channel" all heads have the same channels, with "head" they have all.
    """

    def __init__(self, dim: int, heads: int, search: AttentionSearch = "joint") -> None:
        super().__init__()
        width = dim // heads
        self.heads = heads
        self.scale = width**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.search = search
        rows = (1, [1]) if search == "channel" else (heads, head_counts(heads))
        columns = (1, [1]) if search == "head" else (width, head_widths(width))
        self.choice = Choice(rows[1], columns[1], (rows[0], columns[0]))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)) * self.multiplier()
        return self.proj(attend(*qkv.unbind(2), scale=self.scale))

    def units(self) -> Tensor:
        """The sum of the mask over all heads and channels: ()."""
        mask = self.choice.mask()
        rows, columns = self.heads, self.qkv.out_features // 3 // self.heads
        return mask.expand(rows, columns).sum()

    def compress(self, threshold: float, optimizer: Optimizer | None = None) -> None:
        """Raises ValueError but for the joint search: what the others would cut is not published."""
        require(self.search == "joint", "search", self.search, "joint, where tensors are to shrink")
        super().compress(threshold, optimizer)

    def keep(self, rows: Tensor, columns: Tensor, optimizer: Optimizer | None = None) -> None:
        width = self.qkv.out_features // 3 // self.heads
        units = (rows[:, None] * width + columns).flatten()
        every = torch.cat([units + part * self.heads * width for part in range(3)])
        for name in ("weight", "bias"):
            gather_(self.qkv, name, every, 0, optimizer)
        gather_(self.proj, "weight", units, 1, optimizer)
        self.heads = len(rows)

    @torch.no_grad()
    def fuse(self) -> SearchAttention:
        """Once finished: the same function with scores of 1."""
        scale = self.choice.score.flatten().repeat(3)
        self.qkv.weight.mul_(scale[:, None])
        self.qkv.bias.mul_(scale)
        self.choice.score.fill_(1)
        return self


class SearchPatchEmbed(Searchable):
    """Patches whose channels, those of the whole network, are searched: (B, 3, H, W) -> (B, N, D), not multiplied."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, patch_size)
        self.choice = Choice([1], embedding_sizes(dim), (1, dim))

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).mT

    def keep(self, rows: Tensor, columns: Tensor, optimizer: Optimizer | None = None) -> None:
        for name in ("weight", "bias"):
            gather_(self.proj, name, columns.flatten(), 0, optimizer)
