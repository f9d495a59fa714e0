"""What happens beside the steps of a training: seeding, recording, and stopping at a loss that is no number."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning_utilities.core.apply_func import apply_to_collection
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.utils import save_image

from ommatid.models import save
from ommatid.report.pictures import curves_png
from ommatid.runs.files import replacing
from ommatid.runs.run import Run
from ommatid.runs.trained import Facts
from ommatid.tasks.training import Batch, Training
from ommatid.training.errors import TrainingError
from ommatid.training.tasks import Task

SECONDS_BETWEEN_PICTURES = 20
"""Drawing takes longer than an epoch of a small training."""


class SeedEpoch(Callback):
    """Makes what is random in the model depend on (seed, epoch, process) alone, so that a resumed epoch is the same."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        torch.manual_seed(zlib.crc32(b"%d %d %d" % (self.seed, trainer.current_epoch, trainer.global_rank)))


class Record(Callback):
    """Writes metrics.csv, curves.png, last.safetensors and best.safetensors after each epoch.

    Its rows go into the checkpoint, so that files written by an epoch that is repeated are written again, the same.
    `outcome` makes the model to save of the one that was trained.
    """

    def __init__(
        self,
        run: Run,
        task: Task,
        facts: Facts,
        say: Callable[[str], None],
        *,
        outcome: Callable[[nn.Module], nn.Module],
    ) -> None:
        self.run = run
        self.outcome = outcome
        self.columns = task.columns
        self.metric = task.yardstick.judge
        self.facts = facts
        self.say = say
        self.rows: list[dict[str, float]] = []
        self.started = self.drawn = self.waited = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A run begun before waiting was measured has none.
        self.rows = [{"waited": 0.0} | row for row in state_dict["rows"]]

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        # The first process alone knows the folder that was named after the time.
        self.run = Run(trainer.strategy.broadcast(self.run.path))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Training) -> None:  # type: ignore[override]
        results = pl_module.epoch_results()
        row = {"epoch": trainer.current_epoch + 1} | results | {"lr": trainer.optimizers[0].param_groups[0]["lr"]}
        quality = row[f"val_{self.metric.key}"]
        best = max((row[f"val_{self.metric.key}"] for row in self.rows), default=-math.inf)
        waited: float = trainer.train_dataloader.waited  # type: ignore[union-attr]
        times = {"seconds": time.perf_counter() - self.started, "waited": waited - self.waited}
        self.rows, self.waited = [*self.rows, row | times], waited
        bar = {"loss": row["train_loss"], self.metric.word: quality}
        pl_module.log_dict(bar, prog_bar=True, rank_zero_only=True)
        outcome = self.outcome(pl_module.judged)
        if trainer.is_global_zero:
            self._write(outcome, better=quality > best, last=len(self.rows) == trainer.max_epochs)
            self.say(
                f"epoch {row['epoch']}/{trainer.max_epochs}: train loss {row['train_loss']:.3f}, "
                f"val loss {row['val_loss']:.3f}, val {self.metric.word} {self.metric.exact(quality)}, "
                f"{self.rows[-1]['seconds']:.1f} s"
            )

    def _write(self, model: nn.Module, *, better: bool, last: bool) -> None:
        for name in ("best", "last") if better else ("last",):
            with replacing(self.run.path / f"{name}.safetensors") as draft:
                save(model, draft, extra=self.facts.to_header() | {"epoch": str(len(self.rows))})
        self.run.write_metrics(self.rows, self.columns)
        if last or time.monotonic() - self.drawn > SECONDS_BETWEEN_PICTURES:
            with replacing(self.run.path / "curves.png") as draft:
                curves_png(self.rows, draft, self.metric)
            self.drawn = time.monotonic()


Watch = Callable[[Mapping[str, float]], None]
"""Told the row of metrics.csv of each epoch."""


class Watched(Callback):
    """Shows each epoch's row to who asked for it."""

    def __init__(self, record: Record, watch: Watch) -> None:
        self.record = record
        self.watch = watch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.watch(self.record.rows[-1])


class StopAtNonsense(Callback):
    """Stops where the loss is infinite or not a number, before it reaches the weights, and keeps the batch."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder = folder
        self.task = task
        self.batch: Batch | None = None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self.folder = trainer.strategy.broadcast(self.folder)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self.batch = batch

    def on_after_backward(self, trainer: Trainer, pl_module: Training) -> None:  # type: ignore[override]
        # Here rather than after the forward pass: an accelerator has the backward pass to do while the loss is read.
        if not torch.isfinite(pl_module.loss):
            assert self.batch is not None
            folder = self.folder / f"bad-batch-step{trainer.global_step}"
            batch: Batch = apply_to_collection(self.batch, Tensor, lambda part: part.detach().cpu())
            save_batch(folder, self.task.tensors(batch), self.task.drawn(batch))
            raise TrainingError(
                f"the loss became {pl_module.loss.item()} in epoch {trainer.current_epoch + 1}, step "
                f"{trainer.global_step}; its batch is in {folder}; try a lower lr, or precision float32"
            )


def save_batch(folder: Path, tensors: Mapping[str, Tensor], pictures: Tensor) -> None:
    """Writes batch.safetensors (what the model saw) and batch.png (to look at)."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "batch.safetensors") as draft:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft)
    save_image(pictures.nan_to_num().clamp(0, 1), folder / "batch.png")
