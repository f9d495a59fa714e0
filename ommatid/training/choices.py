"""What a training takes where nothing was said: its model, image size, precision, workers, and epochs for a time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ommatid.measuring.machine import instruction_sets
from ommatid.models.config import require
from ommatid.models.registry import find
from ommatid.training.initial import weights_header
from ommatid.training.model_spec import parse_model
from ommatid.training.recipes import AUTO
from ommatid.training.settings import Settings
from ommatid.training.tasks import Task, TaskData


def chosen_model(task: Task, asked: Mapping[str, Any], decoder: str | None, checkpoint: bool | None) -> dict[str, Any]:
    """`model` and `set`: as asked for, else the model in the weights, else the task's usual one."""
    weights, fields = asked.get("weights"), dict(asked.get("set", {}))
    if checkpoint is not None:
        fields["checkpoint"] = checkpoint
    if "model" in asked:
        spec = parse_model(asked["model"])
        name, fields = spec.name, spec.settings | fields
    elif weights is None:
        usual = dict(task.model_fields)
        if decoder is not None:  # another decoder may have no such field, or another use for it
            usual.pop("decoder_dim", None)
        name, fields = task.model, usual | fields
    else:
        header = weights_header(Path(weights))
        if header is None:
            raise ValueError(f"{weights} does not say which model it holds: name it (--model)")
        name = header.get("name", header["family"])
    name, fields = task.composed(name, fields, decoder)
    return {"model": name, "set": fields}


def with_defaults(task: Task, settings: Settings, data: TaskData, say: Callable[[str], None]) -> Settings:
    """Chooses image size, precision and number of workers where they were not named, and drops what can't be had."""
    recipe = task.suited(settings.recipe, data)
    if recipe != settings.recipe:
        say(f"{data.origin}: mirror images would mean something else, so the recipe's flip is left out")
    if len(data.train) < recipe.batch:
        raise ValueError(
            f"batch = {recipe.batch} is not possible: allowed is at most {len(data.train)}, the training images of "
            f"{data.origin}"
        )
    if recipe.precision == AUTO:
        recipe = replace(recipe, precision=_fast_precision())
    if settings.strategy == "fsdp":
        # Shards of the weights have no copy beside them that could be averaged.
        recipe = replace(recipe, ema=0.0)
    return replace(
        settings,
        recipe=recipe,
        size=settings.size or _usual_size(task, settings, data),
        workers=_usual_workers(data) if settings.workers is None else settings.workers,
    )


def _usual_size(task: Task, settings: Settings, data: TaskData) -> int:
    """The size that the weights were trained for; without weights, one near the data's own."""
    if settings.weights is None:
        return task.usual_size(data)
    header = weights_header(Path(settings.weights)) or {}
    table = getattr(find(settings.model)[1], "image_size", task.published_size)
    table = table or task.usual_size(data)
    return int(header.get("image_size", table if isinstance(table, int) else max(table)))


def _fast_precision() -> str:
    """bfloat16 where the machine computes in it, rather than imitates."""
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = "bf16" in instruction_sets()
    return "bfloat16" if native else "float32"


def _usual_workers(data: TaskData) -> int:
    return 0 if data.train.in_memory else min(4, max((os.cpu_count() or 1) - 1, 1))


def filling(
    minutes: float, model: nn.Module, data: TaskData, settings: Settings, say: Callable[[str], None]
) -> Settings:
    """With as many epochs as there is time for."""
    from ommatid.training.pace import epochs_within

    epochs = epochs_within(minutes, model, data, settings)
    say(f"{minutes:g} minutes are {epochs} epoch{'s' if epochs > 1 else ''} here")
    return replace(settings, recipe=replace(settings.recipe, epochs=epochs))


def check_minutes(minutes: float | None, epochs: int | None, *processes: int | None) -> None:
    if minutes is None:
        return
    require(math.isfinite(minutes) and minutes > 0, "minutes", minutes, "a number above 0")
    require(epochs is None, "minutes", minutes, "either minutes or epochs, not both")
    require(set(processes) <= {None, 1}, "minutes", minutes, "for one process; say epochs where several share the work")
