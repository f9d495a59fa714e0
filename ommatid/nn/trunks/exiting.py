"""Leaving a trunk at the first block that changes little."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ommatid.nn.block import Trunk
from ommatid.ops.saturation import saturated


@contextmanager
def without_exits(model: nn.Module) -> Iterator[None]:
    """While the block runs, all blocks of all trunks do, for all images."""
    trunks = [part for part in model.modules() if isinstance(part, ExitingTrunk)]
    thresholds = [trunk.threshold for trunk in trunks]
    for trunk in trunks:
        trunk.threshold = 1.0
    try:
        yield
    finally:
        for trunk, threshold in zip(trunks, thresholds, strict=True):
            trunk.threshold = threshold


class ExitingTrunk(Trunk):
    """A trunk that ends behind the first block whose output is more similar to its input than `threshold`.

    From MuE (arXiv 2211.11152). One decision for the whole batch: images see one another, unless they come alone. In
    training all blocks run.

    Args:
        blocks: of a plain trunk.
        threshold: a cosine; 1 for never.
        earliest: blocks that always run.
    """

    def __init__(self, blocks: Iterable[nn.Module], *, threshold: float, earliest: int = 1) -> None:
        super().__init__(*blocks)
        self.threshold = threshold
        self.earliest = earliest

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:  # type: ignore[override]
        return self.exited(tokens)[0]

    def first(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        never = self.training or self.threshold >= 1
        return super().first(tokens, grid) if never else self.exited(tokens)[0][:, 0]

    def exited(self, tokens: Tensor) -> tuple[Tensor, int]:
        """The tokens, and how many blocks ran."""
        if torch.compiler.is_compiling() and self.threshold < 1:
            raise ValueError("early exit is not possible in an export: allowed is a threshold of 1, all blocks for all")
        ran = 0
        for block in self:
            before, tokens, ran = tokens, block(tokens), ran + 1
            if not self.training and ran >= self.earliest and saturated(before, tokens, self.threshold):
                break
        return tokens, ran
