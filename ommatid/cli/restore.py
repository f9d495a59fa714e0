"""`ommatid restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ommatid.cli.options import Device, TrainedOrExported


def restore(
    run: TrainedOrExported,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Picture files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the restored pictures.")] = Path("restored"),
    tile: Annotated[int, typer.Option(help="Side in pixels of what the model sees at once.")] = 256,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average over flips and turns; 8 times as long.")
    ] = False,
    page: Annotated[bool, typer.Option(help="Write report.html, with pictures before and after.")] = True,
    device: Device = "cpu",
) -> None:
    """Enlarge pictures, or take out of them what the model has learned to: noise, blur, rain."""
    from ommatid.workflows.restore import restore as workflow

    done = workflow(run, images, out=out, tile=tile, ensemble=ensemble, page=page, device=device)
    console, errors = Console(), Console(stderr=True)
    for one in done.restored:
        sizes = f"{one.before[0]} x {one.before[1]} -> {one.after[0]} x {one.after[1]}"
        line = ", ".join([f"{done.folder / one.output}: {sizes}", f"{one.seconds:.1f} s", *one.notes])
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if done.earlier:
        console.print(f"{len(done.earlier)} were restored before", highlight=False)
    if done.report:
        console.print(str(done.report), markup=False, highlight=False, soft_wrap=True)
    for path, reason in done.skipped:
        errors.print(f"skipped {path}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if done.skipped:
        total = len(done.restored) + len(done.earlier) + len(done.skipped)
        errors.print(f"skipped {len(done.skipped)} of {total} files", highlight=False)
