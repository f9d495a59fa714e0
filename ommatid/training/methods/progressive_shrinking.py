"""Progressive shrinking as a way to train: the run's model is a super-network with trained parts (arXiv 1908.09791)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from ommatid.models.config import require
from ommatid.runs.trained import CLASSIFICATION
from ommatid.training.methods.method import Method

if TYPE_CHECKING:
    from ommatid.tasks.training import Training
    from ommatid.training.settings import Settings

SIDE_STEP = 4
"""Sides of images that differ by less are not told apart."""


@dataclass(frozen=True)
class ProgressiveShrinking(Method):
    """The full network first; then sub-networks drawn at every step, of ever smaller kernels, depths and widths.

    full: share of the steps that the full network has; 0 where it starts from weights that were trained before.
    taught: weight of its answers beside the labels, for its sub-networks. smallest: side of the smallest images in
    pixels, drawn anew for every batch; 0 for images of one size.
    """

    full: float = 0.3
    taught: float = 1.0
    smallest: int = 0

    def check(self, settings: Settings) -> None:
        name = "progressive_shrinking"
        require(settings.task == CLASSIFICATION, "method", name, f"for classification, not {settings.task}")
        require(0 <= self.full < 1, "full", self.full, "from 0 up to, not including, 1")
        require(
            self.full > 0 or settings.weights is not None,
            "full",
            self.full,
            "more than 0 unless --weights has the full network, trained",
        )
        require(self.taught >= 0, "taught", self.taught, "0 or more")
        largest = settings.size or self.smallest
        require(0 <= self.smallest <= largest, "smallest", self.smallest, f"from 0 to the images' own side, {largest}")
        processes = settings.devices * settings.nodes
        require(processes == 1, "devices", processes, f"1 with the method {name}")
        require(not settings.compile, "compile", True, f"false with the method {name}, whose network changes each step")

    def sides(self, size: int) -> range:
        """Of the images that are trained on, ascending."""
        return range(size, (self.smallest or size) - 1, -SIDE_STEP)[::-1]

    def begin(self, model: nn.Module, settings: Settings, *, pretrained: bool) -> nn.Module:
        from ommatid.models.backbones.once_for_all import OnceForAll

        if not isinstance(model, OnceForAll):
            raise ValueError(
                f"{type(model).__name__} has no sub-networks that could be trained: take a once_for_all, as ofa_mbv3"
            )
        return model

    def training(self, training: Training, settings: Settings, steps: int) -> Training:
        from ommatid.training.methods.shrinking import Shrinking

        return Shrinking(training, self, settings, steps)
