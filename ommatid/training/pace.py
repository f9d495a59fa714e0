"""How many epochs a training has time for, from the pace of its first steps."""

from __future__ import annotations

import copy
import time
from typing import Any

from lightning.pytorch import Callback
from torch import nn

from ommatid.training.fit import make_trainer, quiet_lightning, training_of
from ommatid.training.loaders import Batches
from ommatid.training.settings import Settings
from ommatid.training.tasks import TaskData, find_task

STEPS, WARM_UP = 12, 4
"""Batches of training, and of validation, that are tried; and how many of them come before the clock starts."""


def epochs_within(minutes: float, model: nn.Module, data: TaskData, settings: Settings) -> int:
    """Epochs, at least one, that about fill so many minutes here, validation included; `model` stays as it is."""
    batches = Batches(find_task(settings.task), data, settings)
    steps = batches.per_epoch(1)
    training = training_of(copy.deepcopy(model), data, settings, settings.recipe.epochs * steps)
    clock = _Clock()
    with quiet_lightning():
        trainer = make_trainer(
            settings,
            training,
            [clock],
            max_epochs=1,
            limit_train_batches=STEPS,
            limit_val_batches=STEPS,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        trainer.fit(training, batches)
    val_steps = -(-len(data.val) // settings.recipe.batch)
    epoch = steps * _seconds_per_step(clock.train) + val_steps * _seconds_per_step(clock.val)
    return max(1, round(60 * minutes / epoch))


class _Clock(Callback):
    """When training and validation began, and when each of their batches was done."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.val: list[float] = []

    def on_train_epoch_start(self, *event: Any) -> None:
        self.train.append(time.perf_counter())

    def on_train_batch_end(self, *event: Any) -> None:
        self.train.append(time.perf_counter())

    def on_validation_epoch_start(self, *event: Any) -> None:
        self.val.append(time.perf_counter())

    def on_validation_batch_end(self, *event: Any) -> None:
        self.val.append(time.perf_counter())


def _seconds_per_step(stamps: list[float]) -> float:
    counted = stamps[min(WARM_UP, len(stamps) - 2) :]
    return (counted[-1] - counted[0]) / (len(counted) - 1)
