"""Blocks that read some of the tokens only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ommatid.nn.block import Block
from ommatid.nn.mixers import Attention
from ommatid.ops.attention import attend


def attend_kept(block: nn.Module, tokens: Tensor, kept: Tensor) -> Tensor:
    """A plain block in which nobody looks at tokens (B, N, C) that are not kept, (B, N), 1 or 0.

    What becomes of those themselves means nothing.
    """
    assert isinstance(block, Block)
    residual, attention = block.token, block.token.inner
    assert isinstance(attention, Attention)
    mixed = attend(*attention.project(residual.norm(tokens)), bias=kept.bool()[:, None, None])
    return block.channel(residual.add(tokens, attention.proj(mixed * kept[..., None])))


class Gathered(NamedTuple):
    """tokens: (B, M, C), M of the image that keeps most. kept: (B, M), 0 in places an image does not need.
    place: (B, M), where each token was."""

    tokens: Tensor
    kept: Tensor
    place: Tensor

    def scatter(self, count: int) -> Tensor:
        """(B, count, C): kept tokens where they were, zeros elsewhere."""
        batch, _, dim = self.tokens.shape
        values = self.tokens * self.kept[..., None]
        return values.new_zeros(batch, count, dim).scatter(1, self.place[..., None].expand_as(values), values)


def gather_kept(tokens: Tensor, kept: Tensor) -> Gathered:
    """Tokens (B, N, C) without those that no image keeps, (B, N); in their order."""
    most = int(kept.sum(1).max())
    place = kept.argsort(dim=1, descending=True, stable=True)[:, :most]
    chosen = tokens.gather(1, place[..., None].expand(-1, -1, tokens.shape[-1]))
    return Gathered(chosen, kept.gather(1, place), place)


def blocks_on_kept(blocks: Iterable[nn.Module], tokens: Tensor, kept: Tensor) -> Tensor:
    """Plain blocks on the kept tokens alone; the others come back as zeros: (B, N, C) -> (B, N, C)."""
    if torch.compiler.is_compiling():
        for block in blocks:
            tokens = attend_kept(block, tokens, kept)
        return tokens * kept[..., None]
    gathered = gather_kept(tokens, kept)
    for block in blocks:
        gathered = gathered._replace(tokens=attend_kept(block, gathered.tokens, gathered.kept))
    return gathered.scatter(tokens.shape[1])
