"""Mixtures of experts: sorting and grouped products against one-hot einsums, and against a dense MLP. Linux only.

An expert is the usual MLP, four times as wide inside; the dense MLP has k times that width: the same multiply-adds for
a token. The one-hot form gives every expert its share of the tokens as capacity, and all of its time and memory grow
with the square of the tokens: `--one-hot` says up to how many it is measured.

Time: processor time, the versions taking turns in one process; the least of the runs, since others only add to it.
Memory: each version runs once in a process of its own, after a warm-up on a few tokens; the rise of the peak resident
set during that run.

    python benchmarks/moe.py --threads 1
"""

import argparse
import multiprocessing
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from paired import machine, memory_mebibytes

from ommatid.nn.feedforward import MLP
from ommatid.nn.moe import Capacity, MoE, StackedMLP, linear_router, mix_one_hot
from ommatid.nn.moe.dispatch import capacity, locations

RESULTS = Path(__file__).parent / "results" / "moe.md"
DIM, EXPERTS, RATIO = 384, 8, 4
Call = Callable[[], None]


class Case(NamedTuple):
    tokens: int
    top_k: int
    backward: bool


def prepare(version: str, case: Case) -> Call:
    """One call of a version on random tokens."""
    torch.manual_seed(0)
    tokens, k = case.tokens, case.top_k
    moe = MoE(linear_router(DIM, EXPERTS, k), StackedMLP(EXPERTS, DIM, RATIO * DIM))
    if version == "one-hot":
        moe.dispatch = Capacity(1.0)
    module = MLP(DIM, k * RATIO * DIM) if version == "dense" else moe
    x = torch.randn(tokens, DIM, requires_grad=case.backward)
    sources = [x, *module.parameters()]

    def forward() -> torch.Tensor:
        if version != "one-hot":
            return module(x)
        routing = moe.dispatch(moe.router(x))
        places = capacity(tokens, EXPERTS, k, 1.0)
        return mix_one_hot(x, routing, moe.experts, places=places, location=locations(routing.experts, EXPERTS))

    def call() -> None:
        with torch.set_grad_enabled(case.backward):
            output = forward()
            if case.backward:
                torch.autograd.grad(output.square().sum(), sources)

    return call


def least_milliseconds(calls: Mapping[str, Call], repeats: Mapping[str, int]) -> dict[str, float]:
    """Processor time of each call, the calls taking turns."""
    times: dict[str, list[float]] = {version: [] for version in calls}
    for turn in range(max(repeats.values())):
        for version, call in calls.items():
            if turn < repeats[version]:
                start = time.process_time()
                call()
                times[version].append(1e3 * (time.process_time() - start))
    return {version: min(measured) for version, measured in times.items()}


def memory_of(version: str, case: Case, threads: int) -> float:
    torch.set_num_threads(threads)
    return memory_mebibytes(prepare(version, case), warm_up=prepare(version, case._replace(tokens=64)))


def row(case: Case, threads: int, repeats: int, one_hot: int) -> str:
    versions = ["moe", "dense"] + (["one-hot"] if case.tokens <= one_hot else [])
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        memory = {version: processes.apply(memory_of, (version, case, threads)) for version in versions}
    calls = {version: prepare(version, case) for version in versions}
    times = least_milliseconds(calls, {version: 1 if version == "one-hot" else repeats for version in versions})
    slower = f"{times['one-hot'] / times['moe']:.1f}" if "one-hot" in times else ""
    cells = [
        f"{case.tokens:,}",
        case.top_k,
        "forward + backward" if case.backward else "forward",
        f"{times['moe']:.0f}",
        f"{times['dense']:.0f}",
        f"{times['moe'] / times['dense']:.2f}",
        f"{times['one-hot']:.0f}" if slower else "",
        slower,
        f"{memory['moe']:.0f}",
        f"{memory['dense']:.0f}",
        f"{memory['one-hot']:.0f}" if slower else "",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=[6272, 25088])
    parser.add_argument("--one-hot", type=int, default=25088, metavar="TOKENS")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    titles = ["tokens", "k", "pass", "MoE, ms", "dense, ms", "times dense", "one-hot, ms", "times faster"]
    titles += ["MoE, MiB", "dense, MiB", "one-hot, MiB"]
    lines = [
        "# Mixture of experts: sorted against one-hot and dense",
        "",
        f"{machine(arguments.threads)}.  ",
        f"{EXPERTS} experts of width {DIM} and hidden {RATIO * DIM}, float32; dense: hidden {RATIO * DIM} k.  ",
        f"Time: processor time, the least of {arguments.repeats} runs in turns, of the one-hot form one run.  ",
        "Memory: rise of the peak resident set during one call, each version in a process of its own.  ",
        f"Made by `python {shlex.join(sys.argv)}`.",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
    ]
    print("\n".join(lines))
    for case in (Case(n, k, backward) for n in arguments.tokens for k in (1, 2) for backward in (False, True)):
        lines.append(row(case, arguments.threads, arguments.repeats, arguments.one_hot))
        print(lines[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
