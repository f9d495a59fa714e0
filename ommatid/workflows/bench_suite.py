"""bench --suite: is what is shared with timm faster here, by whatever way either is run? A table to check it by."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ommatid.deployment.race_ways import race_ways
from ommatid.measuring.machine import available_cores, describe_machine
from ommatid.measuring.peers import import_timm
from ommatid.measuring.timm_families import SUITE, TIMM_MODELS
from ommatid.models.config import require, suggest
from ommatid.report.bench_suite import suite_page, suite_table
from ommatid.runs.alone import alone_in
from ommatid.runs.files import write_json, write_text

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}

BATCHES = (8, 1, 16)


@dataclass(frozen=True)
class Cell:
    """What one process measures."""

    model: str
    batch: int
    threads: int

    @property
    def name(self) -> str:
        return f"{self.model}-batch{self.batch}-threads{self.threads}"


def bench_suite(
    out: str | Path,
    *,
    models: Iterable[str] = SUITE,
    batches: Iterable[int] = BATCHES,
    threads: Iterable[int] | None = None,
    hours: float | None = None,
    rounds: int = 9,
    seconds: float = 60.0,
    clock: str = "wall",
    command: str = "",
) -> Path:
    """Races published variants against timm's, with equal weights, each by every way: eager, channels-last, compiled,
    bfloat16, ONNX Runtime, OpenVINO; writes report.html, suite.md and suite.json, anew after every model.

    Cut off, the same call continues: what was measured stays in `out`/cells, a file for each.

    Args:
        models: variants that timm has too; one or two of each family where not given.
        batches, threads: images at a time, and CPU threads: one and all cores where None.
        hours: none is begun after so long; no limit where None.
        rounds, seconds: of one race, at most so many rounds, and none begun after so long.
        clock: "wall", or "processor", which is fairer on a machine that is busy with other work.
        command: how the table is made again, as it says itself.

    Returns:
        The path of the page.

    Raises:
        ValueError: timm is absent or has no such model, or an impossible setting.
    """
    import_timm()
    names = list(models)
    for name in names:
        if name not in TIMM_MODELS:
            raise ValueError(f"timm has no model of the architecture {name!r}{suggest(name, TIMM_MODELS)}")
    require(clock in CLOCKS, "clock", clock, " or ".join(CLOCKS))
    counts = list(dict.fromkeys(threads or (available_cores(), 1)))
    sizes = list(batches)
    require(all(count >= 1 for count in (*sizes, *counts, rounds)), "batches, threads or rounds", sizes, "1 or more")
    folder = Path(out).expanduser()
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    cells = [Cell(name, batch, count) for batch in sizes for count in counts for name in names]
    end = None if hours is None else time.monotonic() + 3600 * hours
    limits = {"rounds": rounds, "seconds": seconds, "clock": clock}
    with alone_in(folder):
        _write(folder, cells, command)
        for cell in cells:
            place = folder / "cells" / f"{cell.name}.json"
            if place.is_file():
                continue
            if end is not None and time.monotonic() > end:
                break
            write_json(place, _in_own_process(cell, limits))
            _write(folder, cells, command)
    return folder / "report.html"


def _in_own_process(cell: Cell, limits: dict[str, Any]) -> dict[str, Any]:
    """The race of one cell, or the `error` that ended it."""
    with multiprocessing.get_context("spawn").Pool(1) as processes:
        return processes.apply(_raced, (cell, limits))


def _raced(cell: Cell, limits: dict[str, Any]) -> dict[str, Any]:
    told = {"limits": limits, "machine": describe_machine(), "when": time.strftime("%Y-%m-%d")}
    try:
        limits = limits | {"clock": CLOCKS[limits["clock"]]}
        torch.set_num_threads(cell.threads)
        return asdict(race_ways(cell.model, batch=cell.batch, threads=cell.threads, **limits)) | told
    except Exception as error:  # one broken model must not hide the numbers of the others
        reason = (str(error).strip().splitlines() or [""])[0]
        return asdict(cell) | {"error": f"{type(error).__name__}: {reason}"} | told


def _read(folder: Path, cells: list[Cell]) -> Iterator[dict[str, Any]]:
    for cell in cells:
        place = folder / "cells" / f"{cell.name}.json"
        if place.is_file():
            yield json.loads(place.read_text(encoding="utf-8"))


def _write(folder: Path, cells: list[Cell], command: str) -> None:
    rows = list(_read(folder, cells))
    machine = describe_machine()
    write_json(folder / "suite.json", {"machine": machine, "command": command, "rows": rows})
    write_text(folder / "suite.md", suite_table(rows, machine, command))
    write_text(folder / "report.html", suite_page(rows, machine, command))
