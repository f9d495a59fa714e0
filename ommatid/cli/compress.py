"""`ommatid compress`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ommatid.cli.options import Epochs, LearningRate, Trained


def compress(
    run: Trained,
    data: Annotated[str | None, typer.Argument(help="As for train; the run's own by default.")] = None,
    methods: Annotated[
        str,
        typer.Option(help="nvit, units, dimap, magnitude, wanda, sparsegpt, ecoflap, 2:4, int8; several with commas."),
    ] = "nvit",
    target: Annotated[
        str, typer.Option(help="COST<FACTORx; cost is latency, memory, size, parameters or macs.")
    ] = "latency<0.5x",
    tolerance: Annotated[str, typer.Option(help="Accuracy that may be lost, in points.")] = "1 point",
    settings: Annotated[
        str | None, typer.Option(help="Factors to try, as in 0.7,0.5; halfway and the target by default.")
    ] = None,
    epochs: Epochs = None,
    lr: LearningRate = None,
    batch: Annotated[int, typer.Option(help="Images at a time in what is timed.")] = 1,
    seed: Annotated[int, typer.Option(help="Of what is random in the methods.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of runs and report; RUN/compressed by default.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Remove parts of a trained model until it costs what you say, fine-tune it, and show what that cost."""
    from ommatid.workflows.compress import compress as workflow

    done = workflow(
        run,
        data,
        methods=[name.strip() for name in methods.split(",") if name.strip()],
        target=target,
        tolerance=tolerance,
        settings=None if settings is None else parse_factors(settings),
        epochs=epochs,
        lr=lr,
        batch=batch,
        seed=seed,
        out=out,
        progress=not quiet,
    )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for row in done.rows:
        console.print(
            f"{row['setting']}: {row['accuracy']:.2%}, {row['latency_ms']:.2f} ms ({row['latency_ratio']:.2f}x), "
            f"{row['parameters'] / 1e6:.2f} M parameters, {row['size_mb']:.2f} MB: {row.get('file') or row['run']}"
        )
    console.print(done.advice)
    console.print(str(done.report))


def parse_factors(text: str) -> list[float]:
    """`"0.7,0.5"` -> [0.7, 0.5]. Raises ValueError for anything else."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"--settings {text!r} is not numbers with commas, as 0.7,0.5") from None
