"""One training in a run folder, by Lightning."""

from __future__ import annotations

import logging
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch import nn

from ommatid.runs.run import Run
from ommatid.tasks.training import Training
from ommatid.training.callbacks import Record, SeedEpoch, StopAtNonsense, Watch, Watched
from ommatid.training.checkpoints import WholeFiles, last_checkpoint
from ommatid.training.errors import TrainingError
from ommatid.training.loaders import Batches
from ommatid.training.methods import find_method
from ommatid.training.optimizer import make_optimizer
from ommatid.training.recipes import PRECISIONS
from ommatid.training.routing_history import RoutingHistory
from ommatid.training.settings import Settings
from ommatid.training.tasks import TaskData, find_task


def fit(
    model: nn.Module,
    data: TaskData,
    settings: Settings,
    run: Run,
    *,
    bar: bool,
    say: Callable[[str], None],
    watch: Watch | None = None,
) -> tuple[Path, list[dict[str, float]]]:
    """Trains `model` from the run's checkpoint, or from the start where it has none: the folder, and a row per epoch.

    bar: show a progress bar. say: told, in a line, what each epoch brought. watch: told its row; may end the training
    by an exception.

    Raises:
        TrainingError: the loss became infinite or no number.
    """
    task, recipe = find_task(settings.task), settings.recipe
    batches = Batches(task, data, settings)
    steps = recipe.epochs * batches.per_epoch(settings.devices * settings.nodes)
    method = find_method(settings.method)
    training = training_of(model, data, settings, steps)
    record = Record(run, task, task.header(data, settings), say, outcome=method.outcome)
    callbacks: list[Callback] = [
        SeedEpoch(settings.seed),
        *method.callbacks(steps),
        record,
        StopAtNonsense(run.path, task),
        *([] if settings.compile else [RoutingHistory(run.path)]),  # a compiled model would not be watched
        last_checkpoint(run.checkpoint),
    ]
    if watch is not None:
        callbacks.append(Watched(record, watch))
    with quiet_lightning(), plain_interrupt(), clear_stop(run.path, settings.devices * settings.nodes):
        trainer = make_trainer(
            settings,
            training,
            [*callbacks, RichProgressBar(leave=False)] if bar else callbacks,
            max_epochs=recipe.epochs,
            plugins=[WholeFiles()],
            enable_progress_bar=bar,
            default_root_dir=run.path,
        )
        trainer.fit(
            training, batches, ckpt_path=run.checkpoint if run.checkpoint.is_file() else None, weights_only=True
        )
    return record.run.path, record.rows


def training_of(model: nn.Module, data: TaskData, settings: Settings, steps: int) -> Training:
    """What Lightning trains, in `steps` steps; `model` is compiled where the settings say so."""
    make = partial(make_optimizer, recipe=settings.recipe, steps=steps)
    plain = find_task(settings.task).training(model, data, settings, make)
    training = find_method(settings.method).training(plain, settings, steps)
    if settings.compile:
        model.compile()
    return training


def make_trainer(settings: Settings, training: Training, callbacks: list[Callback], **options: Any) -> Trainer:
    """Lightning's trainer for these settings; `options` are its own."""
    return Trainer(
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=settings.strategy,
        precision=PRECISIONS[settings.recipe.precision],  # type: ignore[arg-type]
        gradient_clip_val=(settings.recipe.clip or None) if training.automatic_optimization else None,
        callbacks=callbacks,
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keeps back Lightning's tips, and warnings on what is as it should be here."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", message=r".*lr_scheduler\.step\(\).*")
        warnings.filterwarnings("ignore", message=r"Grad strides do not match")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def clear_stop(folder: Path, processes: int) -> Iterator[None]:
    """Says so where another process of the training has ended: all that this one sees is that nobody answers."""
    try:
        yield
    except RuntimeError as error:
        if processes == 1 or not re.search("gloo|nccl|connection|peer|timed? ?out", str(error), re.IGNORECASE):
            raise
        raise TrainingError(
            "another process of the training has ended, so this one stops; "
            f"`ommatid train --resume {folder}` continues from the last epoch"
        ) from error


@contextmanager
def plain_interrupt() -> Iterator[None]:
    """Ctrl-C stays a KeyboardInterrupt: Lightning turns it into an exit, and leaves further ones ignored."""
    try:
        yield
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
