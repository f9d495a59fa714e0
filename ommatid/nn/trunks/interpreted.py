"""Dropping tokens: before each group of blocks, a small network says which tokens go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.trunks.kept import attend_kept, gather_kept


class Interpreter(nn.Module):
    """How likely each token is to matter: (B, N, C) -> (B, N), from the class token's point of view.

    The mean over heads of a sigmoid of the class token's query and the token's key, 0 for tokens dropped before. From
    IA-RED^2 (arXiv 2106.12620). A third of the linear layer is never used: published weights have it.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qk = nn.Linear(dim, 3 * dim)

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """`kept`: (B, N), 1 for tokens that are still there and 0 for the others."""
        # In float32, whatever autocast says: what is near to a half would be decided by rounding.
        with torch.autocast(tokens.device.type, enabled=False):
            kept = kept.to(self.qk.weight.dtype)
            tokens = tokens.to(kept.dtype) * kept[..., None]
            normed = F.layer_norm(tokens, tokens.shape[-1:])
            query, key, _ = self.qk(normed).unflatten(-1, (3, self.heads, -1)).unbind(2)
            scores = (query[:, :1] * key).sum(-1) * query.shape[-1] ** -0.5
            return kept * scores.sigmoid().mean(-1)


class Interpretation(NamedTuple):
    """tokens: (B, N, C) behind the last block. probabilities, policies: (B, N) for each group."""

    tokens: Tensor
    probabilities: list[Tensor]
    policies: list[Tensor]


class InterpretedTrunk(nn.Module):
    """A trunk whose groups of blocks read only the tokens that an interpreter keeps: (B, 1 + N, C) -> the same.

    The class token, first, always stays. In evaluation, what was dropped is not computed. From IA-RED^2
    (arXiv 2106.12620). The interpreters get no gradient from the answer; `methods.tokens.ia_red2` trains them.

    Args:
        blocks: of a plain trunk, with `Attention` as it comes.
        groups: how many blocks are in each group.
        dim: C.
        heads: of the interpreters.
        trained_groups: how many of the first groups ask theirs; the others keep what the last of these kept.
    """

    def __init__(
        self, blocks: Iterable[nn.Module], groups: Sequence[int], dim: int, heads: int, *, trained_groups: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.groups = tuple(groups)
        self.trained_groups = trained_groups
        self.interpreters = nn.ModuleList(Interpreter(dim, heads) for _ in groups)
        self.interpreters.requires_grad_(False)
        self._drawing: tuple[Tensor, list[Interpretation]] | None = None

    @contextmanager
    def drawn(self, noise: Tensor) -> Iterator[list[Interpretation]]:
        """Inside, policies are drawn by the noise, as in `interpreted`; the list gets what each `first` kept."""
        shown: list[Interpretation] = []
        self._drawing = (noise, shown)
        try:
            yield shown
        finally:
            self._drawing = None

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Dropped tokens come back as zeros."""
        if self.training or torch.compiler.is_compiling():
            shown = self.interpreted(tokens)
            return shown.tokens * shown.policies[-1][..., None]
        kept, order = self._gathered(tokens)
        return torch.zeros_like(tokens).scatter(1, order[..., None].expand_as(kept), kept)

    def first(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        if self._drawing is not None:
            noise, shown = self._drawing
            shown.append(self.interpreted(tokens, noise))
            return shown[-1].tokens[:, 0]
        whole = self.training or torch.compiler.is_compiling()
        return self.interpreted(tokens).tokens[:, 0] if whole else self._gathered(tokens)[0][:, 0]

    def interpreted(self, tokens: Tensor, noise: Tensor | None = None) -> Interpretation:
        """Computes dropped tokens too, unread by the others, and says what was kept.

        Args:
            tokens: (B, N, C).
            noise: (B, groups, N), uniform from 0 to 1, where policies are to be drawn instead of taken by a half.
        """
        probabilities, policies = [], []
        kept = tokens.new_ones(tokens.shape[:2])
        for group, blocks in enumerate(self._grouped()):
            probability = kept
            if group < self.trained_groups:
                probability = self.interpreters[group](tokens, kept)
                kept = self._chosen(probability, 0.5 if noise is None else noise[:, group])
            probabilities.append(probability)
            policies.append(kept)
            tokens = tokens * kept[..., None]
            for block in blocks:
                tokens = attend_kept(block, tokens, kept)
        return Interpretation(tokens, probabilities, policies)

    def _gathered(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The same of kept tokens only, in as many places as the image needs that keeps most: (B, M, C).

        Also the token that is in each place, (B, M). Places that an image does not need hold zeros.
        """
        kept = tokens.new_ones(tokens.shape[:2])
        order = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        for group, blocks in enumerate(self._grouped()):
            if group < self.trained_groups:
                kept = self._chosen(self.interpreters[group](tokens, kept), 0.5)
                tokens, kept, place = gather_kept(tokens, kept)
                order = order.gather(1, place)
            tokens = tokens * kept[..., None]
            for block in blocks:
                tokens = attend_kept(block, tokens, kept)
        return tokens * kept[..., None], order

    def _grouped(self) -> list[list[nn.Module]]:
        blocks = iter(self.blocks)
        return [[next(blocks) for _ in range(size)] for size in self.groups]

    def _chosen(self, probability: Tensor, threshold: float | Tensor) -> Tensor:
        kept = (probability > threshold).to(probability.dtype).detach()
        return torch.cat([torch.ones_like(kept[:, :1]), kept[:, 1:]], dim=1)
