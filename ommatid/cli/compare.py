"""`ommatid compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ommatid.cli.options import (
    Batch,
    Data,
    Devices,
    Epochs,
    LearningRate,
    Precision,
    Recipe,
    Settings,
    Size,
    Threads,
    parse_settings,
)


def compare(
    data: Data,
    models: Annotated[str, typer.Option(help="Names with commas; NAME[FIELD=VALUE,...] changes a model's config.")],
    recipe: Recipe = "default",
    seeds: Annotated[int, typer.Option(help="Trainings of each model.")] = 1,
    epochs: Epochs = None,
    size: Size = None,
    batch: Batch = None,
    lr: LearningRate = None,
    precision: Precision = None,
    devices: Devices = None,
    threads: Threads = None,
    set: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; found again by the same command.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train several models alike, measure each here, and write a report on which to use."""
    from ommatid.workflows.compare import compare as workflow
    from ommatid.workflows.model_spec import split_models

    report = workflow(
        data,
        split_models(models),
        recipe=recipe,
        seeds=seeds,
        epochs=epochs,
        size=size,
        batch=batch,
        lr=lr,
        precision=precision,
        devices=devices,
        threads=threads,
        set=parse_settings(set),
        out=out,
        progress=not quiet,
    )
    Console().print(str(report), markup=False, highlight=False, soft_wrap=True)
