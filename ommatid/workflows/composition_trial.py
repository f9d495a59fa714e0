"""One composition's short training, as any process of a search does it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ommatid.runs.run import Run
from ommatid.workflows.train import train

MARGIN = 0.05
"""By how much accuracy a composition must be behind one as fast, after the same epoch, to be given up."""

Curve = Sequence[Mapping[str, float]]


class GivenUpError(Exception):
    """A training was ended because one as fast was better."""


@dataclass(frozen=True)
class TrialResult:
    """What a training came to: the row of a comparison, a row per epoch, and whether it was given up."""

    row: dict[str, Any]
    curve: list[dict[str, float]]
    stopped: bool


@dataclass(frozen=True)
class Trial:
    """A composition to train.

    number, fields: of the search. predicted_ms: its latency. path: its run folder. training: keyword arguments of
    `train`. rivals: the curves of finished compositions that are as fast.
    """

    number: int
    fields: Mapping[str, Any]
    predicted_ms: float
    path: Path
    training: Mapping[str, Any]
    rivals: Sequence[Curve]

    def run(self) -> TrialResult:
        """Trains, from the last epoch where an earlier process was killed."""
        try:
            self._train()
        except GivenUpError:
            return TrialResult({}, Run.open(self.path).metrics(), stopped=True)
        run = Run.open(self.path)
        row = {
            "accuracy": run.result["best_accuracy"],
            "top5": run.result["top5"],
            "train_seconds": run.result["seconds"],
            "size_mb": run.weights().stat().st_size / 2**20,
            "curve": run.metrics(),
        }
        return TrialResult(row, run.metrics(), stopped=False)

    def _train(self) -> None:
        if not (self.path / "config.yaml").is_file():
            shutil.rmtree(self.path, ignore_errors=True)  # cut while its files were laid out
            fields = dict(self.fields)
            train(**self.training, model="pyramid", set=fields, out=self.path, progress=False, watch=self._watch)
        elif not Run.open(self.path).finished:
            train(resume=self.path, progress=False, watch=self._watch)

    def _watch(self, row: Mapping[str, float]) -> None:
        """Raises GivenUpError where a rival was better by the margin after this epoch."""
        epoch = int(row["epoch"])
        if epoch < self._last_epoch() and any(
            len(curve) >= epoch and curve[epoch - 1]["val_accuracy"] > row["val_accuracy"] + MARGIN
            for curve in self.rivals
        ):
            raise GivenUpError

    def _last_epoch(self) -> int:
        return Run.open(self.path).config["recipe"]["epochs"]
