"""Experts spread over processes: what the cost model says, and what one to four processes of this machine take.

One layer of experts, forward and backward, in each layout. Measured are the numbers sent to other processes, counted in
the collectives themselves, and processor seconds of a process (median), which other work on the machine changes little.
The model's constants are taken from one process (arithmetic) and from two that exchange plain tensors (traffic).

    python benchmarks/expert_parallel.py
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from paired import machine

from ommatid.nn.moe import MoE, StackedMLP, linear_router
from ommatid.nn.moe.parallel import make_layout, spread_experts

RESULTS = Path(__file__).parent / "results" / "expert_parallel.md"
FLOAT = 4


class Layer(NamedTuple):
    """tokens: S of each process. dim: C. hidden: H. experts: E of all. top_k: k."""

    tokens: int
    dim: int
    hidden: int
    experts: int
    top_k: int

    @property
    def expert_numbers(self) -> int:
        """Weights and biases of one expert."""
        return 2 * self.dim * self.hidden + self.dim + self.hidden

    @property
    def operations(self) -> float:
        """Of a process's experts, forward and backward: three products for each of two matrices."""
        return 12.0 * self.tokens * self.top_k * self.dim * self.hidden

    def token_numbers(self, sharing: int) -> float:
        """Numbers of tokens that leave a process: there and back, forward and backward, if all experts work alike."""
        return 4.0 * self.tokens * self.top_k * self.dim * (sharing - 1) / sharing

    def weight_numbers(self, sharing: int, processes: int) -> float:
        """Numbers of weights that leave a process, and of their gradients, which take the way back."""
        return 2.0 * self.experts / sharing * (1 - sharing / processes) * self.expert_numbers


TINY = Layer(tokens=2048, dim=128, hidden=512, experts=8, top_k=2)


class Found(NamedTuple):
    """Of one step of one process: processor seconds, and numbers sent to others."""

    seconds: float
    numbers: float


def median_step(step: Callable[[], None], repeats: int) -> float:
    """Processor seconds of a step."""
    seconds = []
    for _ in range(repeats + 1):
        dist.barrier()
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:])


def counted(numbers: list[float]) -> None:
    """From now on, collectives note how many numbers leave this process for others."""
    exchange, gather = dist.all_to_all_single, dist.all_gather

    def counting_exchange(output: Any, sent: Any, *splits: Any, group: Any = None) -> None:
        if sent.is_floating_point():
            place = dist.get_rank(group)
            lengths = splits[1] if splits else [len(sent) // dist.get_world_size(group)] * dist.get_world_size(group)
            numbers.append((sum(lengths) - lengths[place]) * sent[:1].numel() if len(sent) else 0)
        exchange(output, sent, *splits, group=group)

    def counting_gather(parts: Any, sent: Any, group: Any = None) -> None:
        numbers.append(sent.numel() * (len(parts) - 1))
        gather(parts, sent, group=group)

    dist.all_to_all_single, dist.all_gather = counting_exchange, counting_gather  # type: ignore[assignment]


def worker(rank: int, processes: int, sharing: int, place: str, repeats: int, results: Any) -> None:
    """One process of a layout; `sharing` 0 measures plain traffic instead."""
    torch.set_num_threads(1)
    wait = datetime.timedelta(minutes=10)
    dist.init_process_group("gloo", f"file://{place}", rank=rank, world_size=processes, timeout=wait)
    torch.manual_seed(0)
    if sharing == 0:
        results.put((rank, [exchange_seconds(size, repeats) for size in (2**10, 2**21)]))
        dist.barrier()
        return
    mixture = MoE(linear_router(TINY.dim, TINY.experts, TINY.top_k), StackedMLP(TINY.experts, TINY.dim, TINY.hidden))
    numbers: list[float] = []
    if processes > 1:
        spread_experts(mixture, make_layout(sharing))
        mixture.router.balance = lambda choice: choice.scores.new_zeros(())
        counted(numbers)
    torch.manual_seed(rank)
    tokens = torch.randn(TINY.tokens, TINY.dim, requires_grad=True)

    def step() -> None:
        numbers.clear()
        mixture(tokens).square().mean().backward()

    seconds = median_step(step, repeats)
    results.put((rank, Found(seconds, sum(numbers))))
    dist.barrier()


def exchange_seconds(size: int, repeats: int) -> float:
    """Processor seconds of a plain exchange in which `size` numbers leave each of two processes."""
    sent = torch.zeros(2 * size)
    return median_step(lambda: dist.all_to_all_single(torch.empty_like(sent), sent), repeats)


def measured(processes: int, sharing: int, repeats: int) -> list[Any]:
    """What all processes found."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (processes, sharing, f"{folder}/meeting", repeats, results)
        workers = [context.Process(target=worker, args=(rank, *arguments)) for rank in range(processes)]
        for process in workers:
            process.start()
        found = dict(results.get(timeout=600) for _ in workers)
        for process in workers:
            process.join()
    return [found[rank] for rank in range(processes)]


class Cluster(NamedTuple):
    """What one accelerator of a large cluster does, sustained. Assumed, not measured."""

    operations: float = 400e12
    inside: float = 300e9
    outside: float = 40e9
    message: float = 3e-6
    node: int = 8
    bytes_per_number: int = 2


def on_a_cluster(layer: Layer, processes: int, sharing: int, cluster: Cluster) -> dict[str, float]:
    """Milliseconds of one layer, forward and backward, and gigabytes of weights that a process works with."""
    near = min(sharing, cluster.node)
    token_bytes = 4.0 * layer.tokens * layer.top_k * layer.dim / sharing * cluster.bytes_per_number
    tokens = token_bytes * ((near - 1) / cluster.inside + (sharing - near) / cluster.outside)
    holders, near_holders = processes // sharing, max(cluster.node // sharing, 1)
    part = 2.0 * layer.experts / processes * layer.expert_numbers * cluster.bytes_per_number
    weights = part * ((near_holders - 1) / cluster.inside + (holders - near_holders) / cluster.outside)
    messages = cluster.message * (4 * (sharing - 1) + 2 * (holders - 1))
    arithmetic = layer.operations / cluster.operations
    return {
        "arithmetic": 1e3 * arithmetic,
        "tokens": 1e3 * tokens,
        "weights": 1e3 * weights,
        "messages": 1e3 * messages,
        "all": 1e3 * (arithmetic + tokens + weights + messages),
        "memory": layer.experts / sharing * layer.expert_numbers * cluster.bytes_per_number / 1e9,
    }


LARGE = Layer(tokens=16384, dim=1024, hidden=4096, experts=2048, top_k=2)


def cluster_table(processes: int) -> list[str]:
    lines = [
        "| sharing | arithmetic, ms | tokens, ms | weights, ms | messages, ms | together, ms | weights in use, GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for power in range(processes.bit_length()):
        cost = on_a_cluster(LARGE, processes, 2**power, Cluster())
        lines.append(f"| {2**power} | " + " | ".join(f"{value:,.1f}" for value in cost.values()) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    (one,) = measured(1, 1, repeats)
    small, large = (statistics.mean(both) for both in zip(*measured(2, 0, repeats), strict=True))
    per_number = (large - small) / (2**21 - 2**10)
    lines = [
        "# Experts spread over processes",
        "",
        f"{machine(1)}  ",
        f"One layer a process: {TINY.tokens} tokens, C = {TINY.dim}, H = {TINY.hidden}, E = {TINY.experts} of all, "
        f"k = {TINY.top_k}; float32, gloo, forward and backward.  ",
        f"Seconds are processor time of a process, the median of {repeats}, mean of all processes.  ",
        f"Model: {1e3 * one.seconds:.1f} ms arithmetic, as one process alone; {1e9 * per_number:.2f} ns for a number "
        f"that leaves, {1e3 * small:.2f} ms for an exchange, both from plain exchanges.  ",
        f"Made by `python benchmarks/expert_parallel.py --repeats {repeats}`.",
        "",
        "| processes | tokens travel among | numbers sent, model | measured | ms, model | measured |",
        "|---|---|---|---|---|---|",
    ]
    for processes, sharing in ((1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)):
        found = [one] if processes == 1 else measured(processes, sharing, repeats)
        numbers = TINY.token_numbers(sharing) + TINY.weight_numbers(sharing, processes)
        exchanges = (0 if sharing == 1 else 5) + (0 if sharing == processes else 8)
        modelled = one.seconds + numbers * per_number + exchanges * small
        lines.append(
            f"| {processes} | {sharing} | {numbers:,.0f} | {statistics.mean(each.numbers for each in found):,.0f} "
            f"| {1e3 * modelled:.1f} | {1e3 * statistics.mean(each.seconds for each in found):.1f} |"
        )
    lines += ["", "## 2,048 accelerators, on paper", "", *cluster_table(2048)]
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
