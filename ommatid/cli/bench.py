"""`ommatid bench`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ommatid.cli.options import Decoder, Device, Size, Threads, whole_numbers
from ommatid.cli.tables import terminal


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Names that `ommatid models` lists, or files that export wrote."),
    ] = None,
    size: Size = None,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 1,
    threads: Threads = None,
    precision: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of weights and images.")] = "float32",
    device: Device = "cpu",
    deploy: Annotated[bool, typer.Option(help="Measure the deployed form.")] = True,
    against: Annotated[Literal["timm"] | None, typer.Option(help="Measure its model too, in turns with ours.")] = None,
    task: Annotated[
        str | None, typer.Option(help="segmentation, detection, instances or panoptic: backbones with what is on them.")
    ] = None,
    decoder: Decoder = None,
    json: Annotated[Path | None, typer.Option(help="Also write the results to this file.")] = None,
    suite: Annotated[
        bool, typer.Option("--suite", help="Race what timm has too, by every way to run it; resumable.")
    ] = False,
    only: Annotated[str | None, typer.Option("--models", help="For --suite: these, with commas.")] = None,
    batches: Annotated[str, typer.Option(help="For --suite: images at a time, with commas.")] = "8,1,16",
    thread_counts: Annotated[
        str | None, typer.Option(help="For --suite: CPU threads, with commas; all cores and one where not given.")
    ] = None,
    hours: Annotated[float | None, typer.Option(help="For --suite: begin no race after so long.")] = None,
    rounds: Annotated[int, typer.Option(help="For --suite: of each race, at most.")] = 9,
    seconds: Annotated[float, typer.Option(help="For --suite: of each race, no round begins later.")] = 60.0,
    clock: Annotated[str, typer.Option(help="For --suite: wall, or processor on a busy machine.")] = "wall",
    out: Annotated[Path, typer.Option(help="For --suite: the folder of its page and tables.")] = Path("bench-suite"),
) -> None:
    """Measure latency, throughput, memory and size on this machine."""
    if suite:
        from ommatid.workflows.bench_suite import bench_suite

        named = [*(models or []), *filter(None, (only or "").split(","))]
        page = bench_suite(
            out,
            **({"models": named} if named else {}),
            batches=whole_numbers("--batches", batches),
            threads=whole_numbers("--thread-counts", thread_counts) if thread_counts else None,
            hours=hours,
            rounds=rounds,
            seconds=seconds,
            clock=clock,
            command=shlex.join(["ommatid", *sys.argv[1:]]),
        )
        print(page)
        return
    from ommatid.report.bench import bench_table
    from ommatid.workflows.bench import bench as workflow

    rows = workflow(
        models or [],
        size=size,
        batch=batch,
        threads=threads,
        precision=precision,
        device=device,
        deploy=deploy,
        against=against,
        task=task,
        decoder=decoder,
        json_path=json,
    )
    failed = [f"{row.model}: {row.error}" for row in rows if row.error]
    if all(row.measurement is None for row in rows):
        raise ValueError("; ".join(failed))
    terminal().print(bench_table([row.to_dict() for row in rows]))
    for line in failed:
        print(line, file=sys.stderr)
