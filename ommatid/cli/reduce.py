"""`ommatid reduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ommatid.cli.options import Threads, Trained


def reduce(
    run: Trained,
    data: Annotated[str | None, typer.Argument(help="To judge on; the run's own validation part by default.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="tome (by default), expedite, ia_red2, sparsifiner or early_exit; for segmentation expedite, or dtop."
        ),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Settings with commas, as 0.7,0.5; the method's own row of them by default.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Points of accuracy, or of mIoU, that may be lost.")] = 1.0,
    epochs: Annotated[int | None, typer.Option(help="Of what the method must learn first, if anything.")] = None,
    finetune: Annotated[int, typer.Option(help="Epochs of training behind it, for each setting.")] = 0,
    batch: Annotated[int, typer.Option(help="Images at a time, for judging and learning.")] = 64,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(help="Timed calls of each setting, in turn.")] = 30,
    out: Annotated[
        Path | None, typer.Option(help="Folder of weights and report; RUN/reduced-METHOD by default.")
    ] = None,
) -> None:
    """Make a trained plain transformer read fewer tokens: what each of several settings costs and keeps, as a page."""
    from ommatid.workflows.reduce import reduce as workflow

    console = Console()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    result = workflow(
        run,
        data,
        method=method,
        keep=parse_shares(keep),
        tolerance=tolerance,
        epochs=epochs,
        finetune=finetune,
        batch=batch,
        threads=threads,
        rounds=rounds,
        out=out,
        say=say,
    )
    say(result["recommended"])
    say(result["report"])


def parse_shares(text: str | None) -> list[float]:
    """`"0.7,0.5"` -> [0.7, 0.5]. Raises ValueError for anything else."""
    try:
        return [float(part) for part in (text or "").split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"--keep {text!r} is not a list of numbers, as 0.7,0.5 is") from None
