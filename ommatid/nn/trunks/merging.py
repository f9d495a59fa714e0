"""Token merging: every block joins a few tokens that are alike, and the next ones have fewer to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ommatid.nn.block import Block, Trunk
from ommatid.nn.mixers import Attention
from ommatid.ops.attention import attend
from ommatid.ops.token_merging import match_bipartite, merge_weighted, special_tokens_first, unmerge


class Merged(NamedTuple):
    """tokens: (B, M, C). size: (B, M, 1), patches in each; None before the first merge. place: (B, N), where each of
    the N tokens that came went to; None likewise."""

    tokens: Tensor
    size: Tensor | None
    place: Tensor | None


class MergingTrunk(Trunk):
    """A trunk in which block i merges `r[i]` tokens away between attention and MLP: (B, S + N, C) -> the same.

    Tokens are compared by their keys, averaged over heads. At the end every token gets the one that it went into.
    From ToMe (arXiv 2210.09461).

    Args:
        blocks: of a plain trunk, with `Attention` as it comes.
        r: for each block; at most half of its tokens are merged.
        special: tokens in front that are kept: none, a class token, or that and a distillation token.
        prop_attn: attention counts a token as often as there are patches in it.
    """

    def __init__(self, blocks: Iterable[nn.Module], r: Sequence[int], *, special: int, prop_attn: bool) -> None:
        super().__init__(*blocks, special=special)
        self.r = tuple(r)
        self.prop_attn = prop_attn

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:  # type: ignore[override]
        merged = self.merged(tokens)
        return merged.tokens if merged.place is None else unmerge(merged.tokens, merged.place)

    def first(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.leading(tokens, 1)[:, 0]

    def leading(self, tokens: Tensor, count: int) -> Tensor:
        """The first `count` of the tokens, special ones, after all blocks: (B, count, C)."""
        merged = self._through(tokens, range(len(self) - 1))
        last = cast(Block, self[-1])
        attended, _ = self._attended(last, merged)
        return last.channel(attended[:, :count])

    def merged(self, tokens: Tensor) -> Merged:
        """What is left of the tokens after the last block, before anything is given back."""
        return self._through(tokens, range(len(self)))

    def _through(self, tokens: Tensor, blocks: Iterable[int]) -> Merged:
        state = Merged(tokens, None, None)
        for i in blocks:
            attended, metric = self._attended(self[i], state)
            state = self._joined(attended, metric, state, self.r[i])
            state = state._replace(tokens=cast(Block, self[i]).channel(state.tokens))
        return state

    def _attended(self, block: nn.Module, state: Merged) -> tuple[Tensor, Tensor]:
        """The tokens after the block's attention, and its keys (B, M, d)."""
        assert isinstance(block, Block)
        residual, attention = block.token, block.token.inner
        assert isinstance(attention, Attention)
        query, key, value = attention.project(residual.norm(state.tokens))
        weighs = self.prop_attn and state.size is not None
        bias = state.size.log().to(query.dtype).mT[:, None] if weighs and state.size is not None else None
        mixed = attention.proj(attend(query, key, value, bias=bias))
        return residual.add(state.tokens, mixed), key.mean(2)

    def _joined(self, tokens: Tensor, metric: Tensor, state: Merged, r: int) -> Merged:
        place, length = match_bipartite(
            metric, r, class_token=self.special > 0, distillation_token=self.special > 1
        )  # fmt: skip
        if length == tokens.shape[1]:
            return state._replace(tokens=tokens)
        if self.special > 1:
            place = special_tokens_first(place, length)
        size = torch.ones_like(tokens[..., :1]) if state.size is None else state.size
        tokens, size = merge_weighted(tokens, size, place, length)
        return Merged(tokens, size, place if state.place is None else place.gather(1, state.place))


def merging_schedule(depth: int, r: int | Sequence[int], inflection: float = 0.0) -> list[int]:
    """Tokens to merge in each of `depth` blocks.

    Args:
        depth: number of blocks.
        r: the average, or a list, which ends in zeros where it is short.
        inflection: from -1 (twice as many in the first block, none in the last) over 0 (as many in all) to 1.
    """
    if not isinstance(r, int):
        return [*r, *[0] * depth][:depth]
    if depth == 1:
        return [r]
    lowest = int(r * (1 - inflection))
    step = (2 * r - 2 * lowest) / (depth - 1)
    return [int(lowest + step * i) for i in range(depth)]
