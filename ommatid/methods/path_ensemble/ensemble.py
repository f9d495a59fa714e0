"""The summands of a pre-norm transformer's class token, and their weighted sums.

A block adds a = A(x) and then f = G(x + a). Unrolled, the last class token is y_0 + a_0 + f_0 + a_1 + ... of L blocks:
P = 2 L + 1 paths, the embedding first. Each path also feeds later blocks; nothing here changes that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.nn.block import Block

Granularity = Literal["none", "channel", "scalar"]


def class_token_paths(blocks: Iterable[nn.Module], tokens: Tensor) -> Tensor:
    """What the embedding and every branch add to the class token: tokens (B, N, C), it first -> (B, P, C).

    Args:
        blocks: `Block`s.
        tokens: what goes into the first.
    """
    *earlier, last = blocks
    assert isinstance(last, Block)
    paths = [tokens[:, :1]]
    for block in earlier:
        assert isinstance(block, Block)
        attended = block.token.branch(tokens)
        tokens = tokens + attended
        mixed = block.channel.branch(tokens)
        tokens = tokens + mixed
        paths += [attended[:, :1], mixed[:, :1]]
    attended = last.token.branch(tokens)[:, :1]
    return torch.cat([*paths, attended, last.channel.branch(tokens[:, :1] + attended)], dim=1)


class EnsembleScale(nn.Module):
    """Weighs every path in the final sum, and only there: (B, P, C) -> (B, P, C). Weights start at 1.

    Args:
        paths: P.
        dim: C.
        granularity: a weight for each "channel" of a path, one for all ("scalar"), or "none".
        pruned: paths of weight 0, counted from 0.
    """

    def __init__(
        self, paths: int, dim: int, *, granularity: Granularity = "channel", pruned: Collection[int] = ()
    ) -> None:
        super().__init__()
        width = dim if granularity == "channel" else 1
        self.weight = None if granularity == "none" else nn.Parameter(torch.ones(paths, width))
        self.kept: Tensor
        kept = torch.tensor([[float(path not in pruned)] for path in range(paths)])
        self.register_buffer("kept", kept, persistent=False)

    def forward(self, paths: Tensor) -> Tensor:
        return paths * (self.kept if self.weight is None else self.kept * self.weight)


def sums_without_each(weighted: Tensor) -> Tensor:
    """(B, P, C) -> (B, P, C): for each path the sum of all others."""
    return weighted.sum(1, keepdim=True) - weighted


def prefix_sums(weighted: Tensor) -> Tensor:
    """(B, 2 L + 1, C) -> (B, L, C): for each block the sum of the paths up to what it adds last."""
    return weighted.cumsum(1)[:, 2::2]
