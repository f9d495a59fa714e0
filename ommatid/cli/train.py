"""`ommatid train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ommatid.cli.options import (
    DATA,
    Batch,
    Decoder,
    Degrade,
    Devices,
    Epochs,
    LearningRate,
    Minutes,
    Precision,
    Recipe,
    Settings,
    Size,
    Task,
    parse_settings,
)


def train(
    data: Annotated[str | None, typer.Argument(help=DATA)] = None,
    task: Task = None,
    degrade: Degrade = None,
    model: Annotated[
        str | None, typer.Option(help="A name that `ommatid models` lists; a small one for the task by default.")
    ] = None,
    decoder: Decoder = None,
    checkpoint: Annotated[
        bool | None, typer.Option("--checkpoint", help="Less memory in dense trainings, for more time.")
    ] = None,
    recipe: Recipe = None,
    epochs: Epochs = None,
    minutes: Minutes = None,
    size: Size = None,
    batch: Batch = None,
    lr: LearningRate = None,
    precision: Precision = None,
    compile: Annotated[bool | None, typer.Option("--compile", help="Compile the model first.")] = None,
    devices: Devices = None,
    nodes: Annotated[int | None, typer.Option(help="How many machines.")] = None,
    strategy: Annotated[str | None, typer.Option(help="auto, ddp or fsdp.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS",
            help='Beyond the recipe: ewa, adversarial, distill, spread, progressive_shrinking; as in "ewa[experts=8]". '
            "For pretraining: simmim, spark, pixpro.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random follows from it; 0 by default.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Start from these weights, or from a run's.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue this run.")] = None,
    config: Annotated[Path | None, typer.Option(help="A run's config.yaml: the same training again.")] = None,
    set: Settings = None,
    workers: Annotated[int | None, typer.Option(help="Processes that read images.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train a model on images, into a run folder."""
    from ommatid.training.processes import is_first_process
    from ommatid.workflows.train import train as workflow

    result = workflow(
        data,
        task=task,
        degrade=degrade,
        model=model,
        decoder=decoder,
        checkpoint=checkpoint,
        recipe=recipe,
        epochs=epochs,
        minutes=minutes,
        size=size,
        batch=batch,
        lr=lr,
        precision=precision,
        compile=compile,
        devices=devices,
        nodes=nodes,
        strategy=strategy,
        method=method,
        seed=seed,
        weights=weights,
        out=out,
        resume=resume,
        config=config,
        set=parse_settings(set),
        workers=workers,
        progress=not quiet,
    )
    if not is_first_process():
        return
    Console().print(
        f"best validation {result.metric.word} {result.told} after {result.epochs} epochs, "
        f"{result.seconds:.0f} s: {result.run}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
