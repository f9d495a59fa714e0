"""Experts weights averaging as a way to train: the run's model is the ordinary one (arXiv 2308.06093)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from ommatid.methods.ewa import average_experts_, share_rate_at, to_dense, train_as_experts
from ommatid.models.config import require
from ommatid.training.methods.method import Method

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from ommatid.training.settings import Settings


@dataclass(frozen=True)
class ExpertsAveraging(Method):
    """Every `every`-th MLP is `experts` experts on random parts of the tokens, averaged after each step.

    share_rate: of an expert's weights that come from the others, at the last step; it grows from 0 in a line.
    """

    experts: int = 4
    every: int = 2
    share_rate: float = 0.3

    def check(self, settings: Settings) -> None:
        require(self.experts >= 1, "experts", self.experts, "1 or more")
        require(self.every >= 1, "every", self.every, "1 or more")
        largest = (self.experts - 1) / self.experts
        allowed = f"from 0 to {largest:.3g} with {self.experts} experts"
        require(0 <= self.share_rate <= max(largest, 0.3), "share_rate", self.share_rate, allowed)
        require(settings.strategy != "fsdp", "strategy", "fsdp", "auto or ddp with the method ewa")

    def begin(self, model: nn.Module, settings: Settings, *, pretrained: bool) -> nn.Module:
        return train_as_experts(model, experts=self.experts, every=self.every, pretrained=pretrained)

    def callbacks(self, steps: int) -> list[Callback]:
        return [averaging(self.share_rate, steps)]

    def outcome(self, model: nn.Module) -> nn.Module:
        return to_dense(model)


def averaging(share_rate: float, steps: int) -> Callback:
    """Averages the experts after each step of a training."""
    from lightning.pytorch import Callback, Trainer

    class Averaging(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: nn.Module, *_: object) -> None:
            model = pl_module.model
            assert isinstance(model, nn.Module)
            average_experts_(model, share_rate_at(trainer.global_step - 1, steps, share_rate))

    return Averaging()
