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

    def scatter_kept(self, count: int) -> Tensor:
        """(B, count) booleans: which tokens are kept."""
        return self.kept.new_zeros(self.kept.shape[0], count).scatter(1, self.place, self.kept) > 0

    def through(self, blocks: Iterable[nn.Module]) -> Gathered:
        """The same behind plain blocks."""
        # A mask that hides nothing costs time; a graph cannot ask whether there is something to hide.
        whole = not torch.compiler.is_compiling() and bool(self.kept.all())
        tokens = self.tokens
        for block in blocks:
            tokens = block(tokens) if whole else attend_kept(block, tokens, self.kept)
        return self._replace(tokens=tokens)

    def keep(self, kept: Tensor) -> Gathered:
        """Those of the tokens that are kept, (B, M); in a graph, which has one size, all of them, the others hidden."""
        if torch.compiler.is_compiling():
            return self._replace(kept=kept)
        fewer = gather_kept(self.tokens, kept)
        return fewer._replace(place=self.place.gather(1, fewer.place))


def gather_all(tokens: Tensor) -> Gathered:
    """Tokens (B, N, C), none of which has gone."""
    place = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
    return Gathered(tokens, torch.ones_like(tokens[..., 0]), place)


def gather_kept(tokens: Tensor, kept: Tensor) -> Gathered:
    """Tokens (B, N, C) without those that no image keeps, (B, N); in their order."""
    most = int(kept.sum(1).max())
    place = kept.argsort(dim=1, descending=True, stable=True)[:, :most]
    chosen = tokens.gather(1, place[..., None].expand(-1, -1, tokens.shape[-1]))
    return Gathered(chosen, kept.gather(1, place), place)
