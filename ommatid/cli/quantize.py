"""`ommatid quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ommatid.cli.options import Trained


def quantize(
    run: Trained,
    data: Annotated[
        str | None, typer.Argument(help="Images to calibrate and judge on; the run's own where not given.")
    ] = None,
    format: Annotated[str, typer.Option(help="openvino or onnx.")] = "openvino",
    tolerance: Annotated[str, typer.Option(help="Accuracy that may be lost.")] = "1 point",
    out: Annotated[Path | None, typer.Option(help="The file to write; beside the weights where not given.")] = None,
) -> None:
    """Write a trained classifier as a file that computes in 8-bit integers."""
    from ommatid.workflows.quantize import quantize as workflow

    done = workflow(run, data, format=format, tolerance=tolerance, out=out)
    before, after = done.before, done.after
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"accuracy {before.accuracy:.2%} -> {after.accuracy:.2%}, {before.size_mb:.1f} -> {after.size_mb:.1f} MB, "
        f"{before.latency_ms:.1f} -> {after.latency_ms:.1f} ms an image ({done.gain:.1f} times as fast)"
    )
    if done.in_float:
        console.print(f"{len(done.in_float)} operations stayed in floating point")
    console.print(f"{done.path}; how to prepare images: {done.description}")
