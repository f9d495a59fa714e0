"""`ommatid bench`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ommatid.cli.options import Device, Size, Threads


def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Names that `ommatid models` lists.")],
    size: Size = None,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 1,
    threads: Threads = None,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    device: Device = "cpu",
    deploy: Annotated[bool, typer.Option(help="Measure the deployed form.")] = True,
    against: Annotated[str | None, typer.Option(help="timm: measure its model in turns with ours.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the results to this file.")] = None,
) -> None:
    """Measure latency, throughput, memory and size on this machine."""
    from ommatid.report.bench import bench_table
    from ommatid.workflows.benchmark import bench as workflow

    rows = workflow(
        models,
        size=size,
        batch=batch,
        threads=threads,
        precision=precision,
        device=device,
        deploy=deploy,
        against=against,
        json_path=json,
    )
    Console().print(bench_table([asdict(row) for row in rows]))
