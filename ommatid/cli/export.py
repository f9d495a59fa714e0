"""`ommatid export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ommatid.cli.options import Trained


def export(
    run: Trained,
    format: Annotated[
        str, typer.Option(help="onnx, openvino, torch (a torch.export program) or aotinductor.")
    ] = "onnx",
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Let the file prepare images itself: uint8 pictures of any size.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The file to write; beside the weights where not given.")] = None,
) -> None:
    """Write a trained model as a file that runs without ommatid."""
    from ommatid.workflows.export import export as workflow

    done = workflow(run, format=format, prepare=prepare, out=out)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{done.path}: {done.path.stat().st_size / 2**20:.1f} MB, answers as the model does to {done.error:.0e}"
    )
    console.print(f"takes any number of images, {done.sizes}")
    console.print(f"{done.description}: how to prepare images for it")
