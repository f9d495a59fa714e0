"""Sliding-window attention: every token reads itself and the few just before it."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.rotary import rotate_halves
from ommatid.ops.sliding_window import sliding_window_attention


class SlidingWindowAttention(nn.Module):
    """Causal multi-head attention within a short reach, positions row by row: (B, ..., C) -> (B, ..., C).

    The local mixer of Based (arXiv 2402.18668), where it stands between layers of linear attention.
    Cost for r = max(window_size / 2, 32): 4 H W C^2 + 4 H W r C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        window_size: half of it is how far back a token sees, in tokens, beside itself.
        rotary_dim: how many channels of a head's queries and keys are turned by position; even, 0 for none.
        bias: of both projections.
    """

    def __init__(self, dim: int, heads: int, window_size: int, *, rotary_dim: int = 0, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.reach = window_size // 2
        self.rotary_dim = rotary_dim
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x.flatten(1, -2)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if self.rotary_dim:
            query, key = (rotate_halves(part, width=self.rotary_dim) for part in (query, key))
        mixed = sliding_window_attention(query, key, value, reach=self.reach)
        return self.proj(mixed.flatten(2)).view(x.shape)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
