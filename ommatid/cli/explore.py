"""`ommatid explore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ommatid.cli.options import Batch, Data, Epochs, LearningRate, Ray, Size, Threads


def explore(
    data: Data,
    budget: Annotated[str, typer.Option(help='What may be spent, as in "latency<5ms,params<10M,macs<300M".')],
    trials: Annotated[int, typer.Option(help="Candidates to train or judge, with those of earlier calls.")] = 50,
    hours: Annotated[float | None, typer.Option(help="Begin no more after so long.")] = None,
    supernet: Annotated[
        str | None, typer.Option(metavar="RUN", help="Search the parts of this trained super-network instead.")
    ] = None,
    mixers: Annotated[str | None, typer.Option(help="Token mixers to choose from, wildcards with commas.")] = None,
    channel_mixers: Annotated[str | None, typer.Option(help="Channel mixers to choose from, likewise.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Of the short trainings; quick by default.")] = None,
    epochs: Epochs = None,
    size: Size = None,
    batch: Batch = None,
    lr: LearningRate = None,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
    threads: Threads = None,
    ray: Ray = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the search; found again by the same command.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Search compositions of parts, or the parts of a super-network, for the best accuracy at every latency."""
    from ommatid.workflows.explore import explore as workflow

    report = workflow(
        data,
        budget=budget,
        trials=trials,
        hours=hours,
        supernet=supernet,
        mixers=mixers,
        channel_mixers=channel_mixers,
        recipe=recipe,
        epochs=epochs,
        size=size,
        batch=batch,
        lr=lr,
        seed=seed,
        threads=threads,
        ray=ray,
        out=out,
        progress=not quiet,
    )
    Console().print(str(report), markup=False, highlight=False, soft_wrap=True)
