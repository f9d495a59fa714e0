"""`ommatid evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ommatid.cli.options import Device, Size, TrainedOrExported


def evaluate(
    run: TrainedOrExported,
    data: Annotated[str | None, typer.Argument(help="As for train; the run's own validation part by default.")] = None,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 64,
    size: Size = None,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder of the report; RUN/evaluation-DATA by default.")] = None,
    attack: Annotated[
        str | None, typer.Option(metavar="WORDS", help='Also judge misleading changes: "pgd 8/255 x10", "fgsm 8/255".')
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Restoration: also measure LPIPS, with these weights of torchvision's AlexNet."
        ),
    ] = None,
) -> None:
    """Judge a trained model: accuracy, calibration, PSNR and SSIM, mIoU, AP, guesses, and where it fails, as a page."""
    from ommatid.workflows.evaluate import evaluate as workflow

    result = workflow(run, data, batch=batch, size=size, device=device, out=out, attack=attack, lpips=lpips)
    Console().print(
        f"{result['summary']}: {result['report']}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
