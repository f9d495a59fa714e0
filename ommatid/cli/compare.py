"""`ommatid compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ommatid.cli.options import (
    Batch,
    Data,
    Decoder,
    Degrade,
    Devices,
    Epochs,
    LearningRate,
    Minutes,
    Precision,
    Ray,
    Recipe,
    Settings,
    Size,
    Task,
    Threads,
    parse_seeds,
    parse_settings,
)


def compare(
    data: Data,
    models: Annotated[
        str, typer.Option(help="Names and YAML files, with commas; NAME[FIELD=VALUE,...] changes fields.")
    ],
    task: Task = None,
    decoder: Decoder = None,
    degrade: Degrade = None,
    recipe: Recipe = None,
    seeds: Annotated[str, typer.Option(help="How many trainings of each model; or their seeds, as in 4,7.")] = "1",
    epochs: Epochs = None,
    minutes: Minutes = None,
    size: Size = None,
    batch: Batch = None,
    lr: LearningRate = None,
    precision: Precision = None,
    devices: Devices = None,
    set: Settings = None,
    device: Annotated[str, typer.Option(help="What to measure speed on: cpu, cuda, or cuda:INDEX.")] = "cpu",
    threads: Threads = None,
    ray: Ray = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; found again by the same command.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train several models alike, measure each here, and write a report on which to use."""
    from ommatid.training.model_spec import split_models
    from ommatid.workflows.compare import compare as workflow

    report = workflow(
        data,
        split_models(models),
        task=task,
        decoder=decoder,
        degrade=degrade,
        recipe=recipe,
        seeds=parse_seeds(seeds),
        epochs=epochs,
        minutes=minutes,
        size=size,
        batch=batch,
        lr=lr,
        precision=precision,
        devices=devices,
        set=parse_settings(set),
        device=device,
        threads=threads,
        ray=ray,
        out=out,
        progress=not quiet,
    )
    Console().print(str(report), markup=False, highlight=False, soft_wrap=True)
