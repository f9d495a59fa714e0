"""Restoration networks against plain PyTorch implementations with the same weights, in time and memory. Linux only.

Outputs are checked to agree first. Time: both versions alternate in one process; the median is reported, as megapixels
of the answer per second. Memory: each version runs once in a process of its own, after a warm-up on a small picture;
the rise of the peak resident set during that run is reported.

    python benchmarks/restoration_speed.py --threads 1
"""

import argparse
import multiprocessing
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from paired import alternating_milliseconds, machine, memory_mebibytes
from plain_restoration import plain_restore
from torch import nn

from ommatid.models import create_model

RESULTS = Path(__file__).parent / "results" / "restoration_speed.md"
VERSIONS = ("ours", "plain")
SMALLEST = 32
CONFIGS: dict[str, dict[str, Any]] = {
    "hat": {"dim": 96, "depths": (4, 4), "heads": (6, 6), "compress_ratio": 3, "squeeze_factor": 24},
    "rgt": {"dim": 96, "depths": (4, 4), "heads": (6, 6)},
}


class Case(NamedTuple):
    family: str
    backward: bool


CASES = [Case(family, backward) for family in CONFIGS for backward in (False, True)]


@torch.no_grad()
def model_of(family: str) -> nn.Module:
    """A model whose parameters are not at their initial values: branches that start near zero count as well."""
    torch.manual_seed(0)
    model = create_model(family, **CONFIGS[family]).eval()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def prepare(version: str, case: Case, side: int) -> Callable[[], None]:
    """One call of a version on a random picture."""
    model = model_of(case.family)
    restore = model if version == "ours" else lambda image: plain_restore(model, image)
    image = torch.rand(1, 3, side, side)

    def call() -> None:
        with torch.set_grad_enabled(case.backward):
            restored = restore(image)
            if case.backward:
                torch.autograd.grad(restored.square().mean(), list(model.parameters()))

    return call


def error(family: str, side: int) -> float:
    """Largest difference of the two answers, as a fraction of the largest magnitude."""
    model, image = model_of(family), torch.rand(1, 3, side, side)
    with torch.no_grad():
        ours, plain = model(image), plain_restore(model, image)
    difference = ((ours - plain).abs().max() / plain.abs().max()).item()
    assert difference < 1e-4, f"{family}: the two versions differ by {difference:.0e}"
    return difference


def memory_of(version: str, case: Case, side: int, threads: int) -> float:
    torch.set_num_threads(threads)
    return memory_mebibytes(prepare(version, case, side), warm_up=prepare(version, case, SMALLEST))


def row(case: Case, side: int, threads: int, repeats: int) -> str:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        memory = [processes.apply(memory_of, (version, case, side, threads)) for version in VERSIONS]
    times = alternating_milliseconds({version: prepare(version, case, side) for version in VERSIONS}, repeats)
    megapixels = (model_of(case.family).scale * side) ** 2 / 1e6
    cells = [
        case.family,
        "forward + backward" if case.backward else "forward",
        *(f"{1e3 * megapixels / times[version]:.3f}" for version in VERSIONS),
        f"{times['plain'] / times['ours']:.2f}",
        *(f"{rise:.0f}" for rise in memory),
        f"{error(case.family, side):.0e}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--side", type=int, default=128, help="of the square picture, in pixels: a multiple of 16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    titles = ["family", "pass", "ours, MP/s", "plain, MP/s", "times faster", "ours, MiB", "plain, MiB", "error"]
    lines = [
        "# Restoration: megapixels per second against plain PyTorch",
        "",
        f"{machine(arguments.threads)}.  ",
        f"One picture of {arguments.side} x {arguments.side}, doubled; float32, eager.  ",
        *(
            f"{family}: {', '.join(f'{key} {value}' for key, value in config.items())}.  "
            for family, config in CONFIGS.items()
        ),
        f"Time: median of {arguments.repeats} alternating runs; megapixels are those of the answer.  ",
        "Memory: rise of the peak resident set during one call, each version in a process of its own.  ",
        "Error: largest difference of outputs, as a fraction of their largest magnitude.  ",
        f"Made by `python {shlex.join(sys.argv)}`.",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
    ]
    print("\n".join(lines))
    for case in CASES:
        lines.append(row(case, arguments.side, arguments.threads, arguments.repeats))
        print(lines[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
