"""Selective scan: the chunked version against the sequential loop, in time and memory. Linux only.

Time: both versions alternate in one process; the median is reported. Memory: each version runs once in a process of
its own, after a warm-up on a short sequence; the rise of the peak resident set during that run is reported.

    python benchmarks/selective_scan.py --threads 1
"""

import argparse
import multiprocessing
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from paired import alternating_milliseconds, machine, memory_mebibytes

from ommatid.ops.selective_scan import selective_scan, selective_scan_reference

RESULTS = Path(__file__).parent / "results" / "selective_scan.md"
VERSIONS = {"chunked": selective_scan, "sequential": selective_scan_reference}
LENGTH, CHANNELS = 3136, 96


class Case(NamedTuple):
    size: int
    backward: bool


CASES = [Case(size, backward) for size in (1, 16) for backward in (False, True)]


def prepare(version: str, case: Case, length: int = LENGTH) -> Callable[[], None]:
    """One call of a version on random inputs of a case."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    signal, read, write = (
        normal(1, 1, length, CHANNELS),
        normal(1, 1, length, case.size),
        normal(1, 1, length, case.size),
    )
    delta, decay = normal(1, 1, length, CHANNELS).sigmoid(), -normal(1, CHANNELS, case.size).exp()
    inputs = [x.requires_grad_(case.backward) for x in (signal, delta, decay, write, read, normal(1, CHANNELS))]

    def call() -> None:
        output = VERSIONS[version](*inputs)
        if case.backward:
            torch.autograd.grad(output.sum(), inputs)

    return call


def memory_of(version: str, case: Case, threads: int) -> float:
    torch.set_num_threads(threads)
    return memory_mebibytes(prepare(version, case), warm_up=prepare(version, case, length=16))


def row(case: Case, threads: int, repeats: int) -> str:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        memory = {version: processes.apply(memory_of, (version, case, threads)) for version in VERSIONS}
    times = alternating_milliseconds({version: prepare(version, case) for version in VERSIONS}, repeats)
    cells = [
        case.size,
        "forward + backward" if case.backward else "forward",
        *(f"{times[version]:.1f}" for version in VERSIONS),
        f"{times['sequential'] / times['chunked']:.1f}",
        *(f"{memory[version]:.0f}" for version in VERSIONS),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    titles = ["N", "pass", "chunked, ms", "sequential, ms", "times faster", "chunked, MiB", "sequential, MiB"]
    lines = [
        "# Selective scan: chunked against sequential",
        "",
        f"{machine(arguments.threads)}.  ",
        f"One sequence of {LENGTH} steps, {CHANNELS} channels with N states each, float32.  ",
        f"Time: median of {arguments.repeats} alternating runs.  ",
        "Memory: rise of the peak resident set during one call, each version in a process of its own.  ",
        f"Made by `python {shlex.join(sys.argv)}`.",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
        *(row(case, arguments.threads, arguments.repeats) for case in CASES),
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
