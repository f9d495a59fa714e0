"""Token clustering: the later blocks read cluster centres, and every patch is made again from those near to it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, nn

from ommatid.nn.block import Trunk, first_token
from ommatid.nn.tokens import join_tokens, split_tokens
from ommatid.ops.token_clustering import cluster, reconstruct


class ClusteredTrunk(Trunk):
    """A trunk whose blocks from `location` on read fewer tokens: (B, S + H W, C) -> the same.

    Special tokens go through all blocks. Needs no training. From Expedite (arXiv 2210.01035); as published, patches
    come out up to sqrt(k) times as large, which the norm behind the trunk takes back.

    Args:
        blocks: of a plain trunk.
        location: number of the first block that reads centres, from 0.
        keep: centres, as a share of the patches.
        iterations, temperature, window, k: as in `ops.token_clustering`.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        *,
        location: int,
        keep: float,
        iterations: int = 5,
        temperature: float = 0.01,
        window: int = 5,
        k: int = 20,
    ) -> None:
        super().__init__(*blocks)
        self.location, self.keep = location, keep
        self.iterations, self.temperature, self.window, self.k = iterations, temperature, window, k

    def cells(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the centres on a grid of patches."""
        # Plain numbers, so that a graph is of one size: files of other runtimes cannot round what is free.
        rows, columns = (max(1, round(int(side) * math.sqrt(self.keep))) for side in grid)
        return rows, columns

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:  # type: ignore[override]
        cells = self.cells(grid)
        if cells == grid:
            return super().forward(tokens, grid)
        before, centers, tokens = self.clustered(tokens, grid)
        for block in list(self)[self.location :]:
            tokens = block(tokens)
        special, fewer = split_tokens(tokens, cells)
        k = min(self.k, cells[0] * cells[1])
        patches = reconstruct(
            before.flatten(1, 2), centers.flatten(1, 2), fewer.flatten(1, 2), k=k, temperature=self.temperature
        )
        return join_tokens(special, patches.unflatten(1, grid))

    def first(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.cells(grid) == grid:
            return super().first(tokens, grid)
        return first_token(list(self)[self.location :], self.clustered(tokens, grid)[2])

    def clustered(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """The map before and the centres after clustering, and the sequence of special tokens and centres."""
        for block in list(self)[: self.location]:
            tokens = block(tokens)
        special, before = split_tokens(tokens, grid)
        centers = cluster(
            before, self.cells(grid), iterations=self.iterations, temperature=self.temperature, window=self.window
        )
        return before, centers, join_tokens(special, centers)
