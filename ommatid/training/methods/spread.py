"""Experts spread over the processes of a training, each of which holds some of them (nn/moe/parallel.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from ommatid.models.config import require
from ommatid.nn.moe import MoE
from ommatid.training.methods.method import Method

if TYPE_CHECKING:
    from ommatid.tasks.training import Training
    from ommatid.training.settings import Settings


@dataclass(frozen=True)
class SpreadExperts(Method):
    """What travels is chosen by measurement: tokens to their experts, weights to the tokens, or both.

    sharing: among how many processes tokens travel, instead; 1 is weights alone, all processes tokens alone.
    """

    sharing: int = 0

    def check(self, settings: Settings) -> None:
        processes = settings.devices * settings.nodes
        require(processes > 1, "devices", processes, "2 or more processes with the method spread")
        require(settings.strategy != "fsdp", "strategy", "fsdp", "auto or ddp with the method spread")
        require(not settings.compile, "compile", True, "false with the method spread")
        possible = self.sharing == 0 or (self.sharing > 0 and processes % self.sharing == 0)
        require(possible, "sharing", self.sharing, f"a divisor of the {processes} processes, or 0 to measure")

    def begin(self, model: nn.Module, settings: Settings, *, pretrained: bool) -> nn.Module:
        mixtures = [module for module in model.modules() if isinstance(module, MoE)]
        if not mixtures:
            raise ValueError(f"{type(model).__name__} has no mixture of experts that could be spread over processes")
        processes = settings.devices * settings.nodes
        for mixture in mixtures:
            experts = mixture.router.experts
            require(experts % processes == 0, "number of experts", experts, f"a multiple of the {processes} processes")
        return model

    def training(self, training: Training, settings: Settings, steps: int) -> Training:
        from ommatid.training.methods.spreading import Spread

        return Spread(training, self.sharing)

    def outcome(self, model: nn.Module) -> nn.Module:
        from ommatid.nn.moe.parallel import gathered

        return gathered(model)
