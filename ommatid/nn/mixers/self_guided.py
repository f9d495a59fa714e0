"""Self-guided attention: one attention finds out which tokens matter, the next spares those that don't."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.nn.deploy import scale_output_
from ommatid.nn.mixers.spatial_reduction import strided_reduction
from ommatid.ops.attention import attend, attend_weighing
from ommatid.ops.refusal import require_map
from ommatid.ops.windows import merge, partition

WINDOW = (7, 7)

# By reduction ratio: how many tokens in a row, ranked by significance, become one, in each part of the ranking.
RUNS = {8: (196, 56, 28), 4: (49, 14, 7), 2: (2, 1)}


class GuidingAttention(nn.Module):
    """Half of the heads look at a coarse map, half into their 7 x 7 window: (B, H, W, C) -> (B, H, W, C).

    SG-Former (arXiv 2308.12216). `guide` also gives the significance of every token: how much attention it gets.
    Cost: 5 H W C^2 + M C^2 + (M + 49) H W C multiply-adds, with M = H W / ratio^2.

    Args:
        dim: C.
        heads: number of heads, even; divides C.
        ratio: of the sides of map and coarse map.
        qkv_bias: bias of the query, key and value projections.

    Raises:
        ValueError: in the forward pass, sides that are no multiples of 7.
    """

    def __init__(self, dim: int, heads: int, ratio: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads // 2
        self.scale = (dim // heads) ** -0.5  # also of heads that have lost units since
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.reduction = nn.Sequential(strided_reduction(dim, ratio), nn.GELU())
        self.coarse_key_value = nn.Linear(dim, dim, bias=qkv_bias)
        self.window_key_value = nn.Linear(dim, dim, bias=qkv_bias)
        self.local = linear_conv(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        coarse, windows, _ = self._tokens(x)
        return self._join(x, attend(*coarse, scale=self.scale), attend(*windows, scale=self.scale))

    def guide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mixed map, and the significance (B, H, W) of its tokens, which has no gradient.

        At full precision even under autocast: a ranking turns on the last digits.
        """
        with torch.autocast(x.device.type, enabled=False):
            return self._guide(x.to(self.query.weight.dtype))

    def _guide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        coarse, windows, coarse_size = self._tokens(x)
        coarse_mixed, coarse_weights = attend_weighing(*coarse, scale=self.scale)
        window_mixed, window_weights = attend_weighing(*windows, scale=self.scale)
        size = (x.shape[1], x.shape[2])
        everywhere = coarse_weights.view(x.shape[0], 1, *coarse_size)
        nearby = merge(window_weights.view(x.shape[0], -1, WINDOW[0] * WINDOW[1], 1), WINDOW, size)
        return (
            self._join(x, coarse_mixed, window_mixed),
            F.interpolate(everywhere, size=size, mode="nearest").squeeze(1) + nearby.squeeze(-1),
        )

    def _tokens(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], tuple[int, int]]:
        """Queries, keys and values (..., N, heads, d) of the coarse map and of the windows; the coarse map's size."""
        require_map(all(side % WINDOW[0] == 0 for side in x.shape[1:3]), x, f"multiples of {WINDOW[0]} a side")
        coarse_query, window_query = self.query(x).chunk(2, dim=-1)
        reduced = self.reduction(x)
        coarse_key, coarse_value = self.coarse_key_value(reduced.flatten(1, 2)).chunk(2, dim=-1)
        coarse = [coarse_query.flatten(1, 2), coarse_key, coarse_value]
        in_window = [window_query, *self.window_key_value(x).chunk(2, dim=-1)]
        windows = [partition(features, WINDOW).flatten(0, 1) for features in in_window]
        return (
            [tokens.unflatten(-1, (self.heads, -1)) for tokens in coarse],
            [tokens.unflatten(-1, (self.heads, -1)) for tokens in windows],
            (reduced.shape[1], reduced.shape[2]),
        )

    def _join(self, x: Tensor, coarse: Tensor, windows: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        merged = merge(windows.unflatten(0, (x.shape[0], -1)), WINDOW, size)
        return self.proj(torch.cat([coarse.unflatten(1, size), merged], dim=-1) + self.local(x))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


class GuidedAttention(nn.Module):
    """Attention to tokens regrouped by significance: (B, H, W, C), significance (B, H, W) -> (B, H, W, C).

    SG-Former (arXiv 2308.12216). Tokens are ranked by significance, and as many of them in a row become one as their
    part of the ranking is worth: the least significant quarter is joined most (with ratio 2, the half).
    Cost: 3 H W C^2 + 2 K C^2 + 2 H W K C multiply-adds, with K joined tokens.

    Args:
        dim: C.
        heads: number of heads; divides C.
        ratio: 8, 4 or 2, as in the attention that guides.
        qkv_bias: bias of the query projection and of the joint key and value projection.

    Raises:
        ValueError: in the forward pass, a map whose number of tokens does not divide into runs.
    """

    def __init__(self, dim: int, heads: int, ratio: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.runs = RUNS[ratio]
        self.multiple = token_multiple(ratio)
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.joins = nn.ModuleList(nn.Linear(run, 1) for run in self.runs)
        self.key_value = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.local = linear_conv(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, significance: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        query = self.query(tokens).unflatten(-1, (self.heads, -1))
        require_map(tokens.shape[1] % self.multiple == 0, x, f"one of a multiple of {self.multiple} tokens")
        joined = self._join(tokens, significance.flatten(1))
        key, value = self.key_value(joined).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.proj(attend(query, key, value).view(x.shape) + self.local(x))

    def _join(self, tokens: Tensor, significance: Tensor) -> Tensor:
        """(B, N, C), (B, N) -> (B, K, C), the least significant first."""
        batch, count, channels = tokens.shape
        order = significance.argsort(dim=1).unsqueeze(-1).expand(-1, -1, channels)
        parts = tokens.gather(1, order).split(part_lengths(count, len(self.runs)), dim=1)
        joined = [
            join(part.view(batch, -1, run, channels).mT).squeeze(-1)
            for join, part, run in zip(self.joins, parts, self.runs, strict=True)
        ]
        return torch.cat(joined, dim=1)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


def linear_conv(dim: int) -> nn.Sequential:
    """The local term of all attention in SG-Former: (B, H, W, C) -> (B, H, W, C)."""
    return nn.Sequential(nn.Linear(dim, dim), depthwise_conv(dim, 3))


def part_lengths(tokens: int, parts: int) -> list[int]:
    """A quarter, a half and a quarter of the tokens; with two parts, halves."""
    return [tokens // 2] * 2 if parts == 2 else [tokens // 4, tokens // 2, tokens // 4]


def token_multiple(ratio: int) -> int:
    """A map whose number of tokens is a multiple of this divides into runs."""
    runs = RUNS[ratio]
    return runs[0] * (2 if len(runs) == 2 else 4)
