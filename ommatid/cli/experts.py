"""`ommatid experts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ommatid.cli.options import Device, Size, Trained


def experts(
    run: Trained,
    data: Annotated[
        str | None, typer.Argument(help="As for evaluate; the run's own validation part by default.")
    ] = None,
    images: Annotated[int, typer.Option(help="How many to draw with their regions by expert.")] = 6,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 64,
    size: Size = None,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder of the report; RUN/experts by default.")] = None,
) -> None:
    """Show what a model's experts do: load, balance, dropped tokens, and which regions of images go to which expert."""
    from ommatid.workflows.experts import experts as workflow

    result = workflow(run, data, images=images, batch=batch, size=size, device=device, out=out)
    Console().print(f"{result['summary']}: {result['report']}", markup=False, highlight=False, soft_wrap=True)
