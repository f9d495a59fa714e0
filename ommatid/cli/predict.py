"""`ommatid predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ommatid.cli.options import Device, TrainedOrExported


def predict(
    run: TrainedOrExported,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(help="How many classes per image.")] = 5,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 64,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder for CSV, JSON and pictures together.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the predictions to this CSV file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the predictions to this JSON file.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Write each image with what is on it to this folder.")] = None,
) -> None:
    """Name what is on images, and draw where it is."""
    from ommatid.workflows.predict import predict as workflow

    found = workflow(run, images, top=top, batch=batch, device=device, out=out, csv=csv, json=json, pictures=pictures)
    console, errors = Console(), Console(stderr=True)
    for prediction in found.predictions:
        console.print(f"{prediction.path}: {prediction.told}", markup=False, highlight=False, soft_wrap=True)
    for path, reason in found.skipped:
        errors.print(f"skipped {path}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if found.skipped:
        total = len(found.predictions) + len(found.skipped)
        errors.print(f"skipped {len(found.skipped)} of {total} files", highlight=False)
