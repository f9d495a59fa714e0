"""`ommatid bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ommatid.cli.options import Device, Size, Threads
from ommatid.cli.tables import terminal


def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Names that `ommatid models` lists.")],
    size: Size = None,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 1,
    threads: Threads = None,
    precision: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of weights and images.")] = "float32",
    device: Device = "cpu",
    deploy: Annotated[bool, typer.Option(help="Measure the deployed form.")] = True,
    against: Annotated[Literal["timm"] | None, typer.Option(help="Measure its model too, in turns with ours.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the results to this file.")] = None,
) -> None:
    """Measure latency, throughput, memory and size on this machine."""
    from ommatid.report.bench import bench_table
    from ommatid.workflows.bench import bench as workflow

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
    failed = [f"{row.model}: {row.error}" for row in rows if row.error]
    if all(row.measurement is None for row in rows):
        raise ValueError("; ".join(failed))
    terminal().print(bench_table([row.to_dict() for row in rows]))
    for line in failed:
        print(line, file=sys.stderr)
