"""Sliced group attention: the tokens, perhaps in another order, are cut into runs that know nothing of each other."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.attention import attend


class SlicedGroupAttention(nn.Module):
    """Self-attention inside runs of consecutive tokens, row by row: (B, H, W, C) -> (B, H, W, C).

    SReT (arXiv 2111.05297). The number of runs is given with the input, since one layer is used with several.
    Cost: 4 H W C^2 + 2 (H W)^2 C / runs multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, runs: int = 1, order: Tensor | None = None) -> Tensor:
        """Mixes within each run.

        Args:
            x: (B, H, W, C).
            runs: of equal length; divides H * W.
            order: (H * W,), the tokens' numbers in the order in which they are cut into runs; row by row where None.
        """
        tokens = x.flatten(1, -2)
        if tokens.shape[1] % runs:
            raise ValueError(f"runs = {runs} is not possible: allowed is a divisor of the {tokens.shape[1]} tokens")
        ordered = tokens if order is None else tokens.index_select(1, order)
        mixed = self.attend_runs(ordered.unflatten(1, (runs, -1)).flatten(0, 1)).view(tokens.shape)
        restored = mixed if order is None else mixed.index_select(1, order.argsort())
        return self.proj(restored).view(x.shape)

    def attend_runs(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return attend(query, key, value)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
