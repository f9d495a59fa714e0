"""Neighbourhood attention: the tiled version against the gather version, in time and memory. Linux only.

Time: both versions alternate in one process; the median is reported. Memory: each version runs once in a process of
its own, after a warm-up on a small map; the rise of the peak resident set during that run is reported.

    python benchmarks/neighborhood.py --threads 1
"""

import argparse
import multiprocessing
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from paired import alternating_milliseconds, machine, memory_mebibytes

from ommatid.ops.neighborhood import neighborhood_attention_2d, neighborhood_attention_2d_reference

RESULTS = Path(__file__).parent / "results" / "neighborhood.md"
VERSIONS = {"tiled": neighborhood_attention_2d, "gather": neighborhood_attention_2d_reference}
BATCH, SIDE, HEADS, CHANNELS, KERNEL = 8, 56, 2, 32, 7


class Case(NamedTuple):
    dilation: int
    backward: bool


CASES = [Case(dilation, backward) for dilation in (1, 8) for backward in (False, True)]


def prepare(version: str, case: Case, batch: int = BATCH) -> Callable[[], None]:
    """One call of a version on random inputs of a case."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(batch, SIDE, SIDE, HEADS, CHANNELS, generator=generator) for _ in range(3))
    bias = torch.randn(HEADS, 2 * KERNEL - 1, 2 * KERNEL - 1, generator=generator)
    inputs = [x.requires_grad_(case.backward) for x in (query, key, value, bias)]
    attend = partial(VERSIONS[version], kernel_size=KERNEL, dilation=case.dilation)

    def call() -> None:
        output = attend(*inputs[:3], bias=inputs[3])
        if case.backward:
            torch.autograd.grad(output.sum(), inputs)

    return call


def memory_of(version: str, case: Case, threads: int) -> float:
    torch.set_num_threads(threads)
    return memory_mebibytes(prepare(version, case), warm_up=prepare(version, case, batch=1))


def row(case: Case, threads: int, repeats: int) -> str:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        memory = {version: processes.apply(memory_of, (version, case, threads)) for version in VERSIONS}
    times = alternating_milliseconds({version: prepare(version, case) for version in VERSIONS}, repeats)
    cells = [
        case.dilation,
        "forward + backward" if case.backward else "forward",
        *(f"{times[version]:.0f}" for version in VERSIONS),
        f"{times['gather'] / times['tiled']:.1f}",
        *(f"{memory[version]:.0f}" for version in VERSIONS),
        f"{memory['gather'] / memory['tiled']:.1f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    titles = ["dilation", "pass", "tiled, ms", "gather, ms", "times faster", "tiled, MiB", "gather, MiB", "times less"]
    lines = [
        "# Neighbourhood attention: tiled against gathered",
        "",
        f"{machine(arguments.threads)}.  ",
        f"Map {SIDE} x {SIDE}, batch {BATCH}, {HEADS} heads of {CHANNELS}, kernel {KERNEL}, relative bias, float32.  ",
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
