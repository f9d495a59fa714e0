"""How experts were loaded on the validation images, epoch by epoch: a training keeps it for the page of `experts`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from ommatid.measuring.routing import Decision, Tally, observed, routing_layers
from ommatid.runs.files import write_json
from ommatid.runs.run import Run
from ommatid.tasks.training import Training


class RoutingHistory(Callback):
    """Writes experts.json, a row for each epoch; nothing for a model without experts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.tallies: dict[str, Tally] = {}
        self.watch: AbstractContextManager[None] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self.folder = trainer.strategy.broadcast(self.folder)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Training) -> None:  # type: ignore[override]
        layers = routing_layers(pl_module.judged)
        self.tallies = {name: Tally(experts) for name, experts in layers.items()}
        self.watch = observed(pl_module.judged, self._see)
        self.watch.__enter__()

    def _see(self, name: str, decision: Decision) -> None:
        self.tallies[name].add(decision)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Training) -> None:  # type: ignore[override]
        assert self.watch is not None
        self.watch.__exit__(None, None, None)
        for tally in self.tallies.values():
            tally.sums = trainer.strategy.reduce(tally.sums.to(pl_module.device), reduce_op="sum").cpu()
        if not self.tallies:
            return
        layers = {name: tally.summary() for name, tally in self.tallies.items()}
        self.rows = [*self.rows, {"epoch": trainer.current_epoch + 1, "layers": layers}]
        if trainer.is_global_zero:
            write_json(Run(self.folder).routing, self.rows)
