"""Where a forward pass spends its time: products, attention, norms, copies, small operators, Python between them.

python benchmarks/profiles.py --batches 8 1
python benchmarks/profiles.py --models pvt_v2_b0 --batches 1 --operators 12     # by name, most first
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ommatid.measuring.machine import describe_machine
from ommatid.measuring.measure import image_for, native_size
from ommatid.measuring.timing import alternate
from ommatid.measuring.timm_families import SUITE
from ommatid.models import create_model
from ommatid.models.sizes import pair
from ommatid.nn.deploy import deployed_copy

RESULTS = Path(__file__).parent / "results" / "profiles.md"
CPU = torch.device("cpu")
PASSES = 5
SMALL = 50e-6
"""Seconds below which the mean call of an operator is called small."""

KINDS: dict[str, tuple[str, ...]] = {
    "products, convolutions": ("mm", "addmm", "bmm", "baddbmm", "mkldnn_convolution", "_slow_conv2d_forward"),
    "attention": ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math"),
    "norms": ("native_layer_norm", "native_batch_norm", "native_group_norm", "linalg_vector_norm"),
    "copies": ("copy_", "clone", "cat", "stack", "roll", "constant_pad_nd", "index", "index_select", "gather", "fill_"),
    "views, wrappers": (
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "as_strided", "expand", "t"),
        *("slice", "select", "split", "split_with_sizes", "chunk", "unbind", "unflatten", "flatten", "unsqueeze"),
        *("squeeze", "empty", "empty_like", "empty_strided", "resize_", "contiguous", "detach", "alias", "unfold"),
        *("linear", "matmul", "conv2d", "convolution", "_convolution", "layer_norm", "batch_norm", "group_norm"),
        *("scaled_dot_product_attention", "pad", "softmax", "concat", "to", "_to_copy"),
    ),
}
"""ATen's operators; wrappers only call others. What is in none of these computes element by element, pools, resizes."""
OTHER = "element by element, pooling"
BETWEEN = "between operators"
FEW = "in operators below 50 us"


class Profile(NamedTuple):
    """The profiler's averages of each of ATen's operators, without what it calls; and seconds that all passes took."""

    operators: list[Any]
    seconds: float


def profiled(model: nn.Module, image: Tensor) -> Profile:
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as seen:
        start = time.perf_counter()
        for _ in range(PASSES):
            model(image)
        seconds = time.perf_counter() - start
    return Profile([event for event in seen.key_averages() if event.key.startswith("aten::")], seconds)


def kind_of(operator: str) -> str:
    name = operator.removeprefix("aten::")
    return next((kind for kind, names in KINDS.items() if name in names), OTHER)


def shares(seen: Profile) -> dict[str, float]:
    """Of the passes' time: each kind of operators, what is between them, and those that are small."""
    times = dict.fromkeys((*KINDS, OTHER), 0.0)
    small = 0.0
    for event in seen.operators:
        seconds = event.self_cpu_time_total / 1e6
        times[kind_of(event.key)] += seconds
        small += seconds if seconds / event.count < SMALL else 0
    times |= {BETWEEN: seen.seconds - sum(times.values()), FEW: small}
    return {kind: seconds / seen.seconds for kind, seconds in times.items()}


def prepared(name: str, batch: int) -> tuple[nn.Module, Tensor]:
    """The deployed model, warmed up, and images of its own size."""
    model = create_model(name).eval()
    image = image_for(model, batch, pair(native_size(model)))
    model = deployed_copy(model).requires_grad_(False)
    with torch.inference_mode():
        model(image)
    return model, image


def row(name: str, batch: int) -> str:
    """One line of the table."""
    model, image = prepared(name, batch)
    with torch.inference_mode():
        times = alternate([partial(model, image)], CPU, rounds=9, seconds=20, clock=time.process_time)
    seen = profiled(model, image)
    calls = sum(event.count for event in seen.operators) / PASSES
    told = [f"{share:.0%}" for share in shares(seen).values()]
    milliseconds = 1e3 * statistics.median(time for (time,) in times)
    return f"| {' | '.join([name, str(batch), f'{milliseconds:.1f}', f'{calls:.0f}', *told])} |"


def listing(name: str, batch: int, count: int) -> str:
    """The operators that take most, by name."""
    seen = profiled(*prepared(name, batch))
    ranked = sorted(seen.operators, key=lambda event: -event.self_cpu_time_total)[:count]
    lines = [f"{name}, batch {batch}"]
    for event in ranked:
        share = event.self_cpu_time_total / 1e6 / seen.seconds
        each = event.self_cpu_time_total / event.count
        lines.append(f"{share:6.1%}  {event.count / PASSES:6.0f} times  {each:9.0f} microseconds  {event.key}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=SUITE)
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 1])
    parser.add_argument("--operators", type=int, help="print so many operators by name, and no table")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells = [(name, batch) for batch in arguments.batches for name in arguments.models]
    if arguments.operators:
        for cell in cells:
            print(listing(*cell, arguments.operators), flush=True)
        return
    titles = ["model", "batch", "ms", "operators", *KINDS, OTHER, BETWEEN, FEW]
    lines = [
        "# Where a forward pass spends its time",
        "",
        f"{', '.join(f'{name} {value}' for name, value in describe_machine().items())}, 1 thread.  ",
        "Eager, deployed, float32; images of the model's own size, 224 pixels where it has none.  ",
        "Shares of the time of passes under PyTorch's profiler, whose own work",
        "falls on small operators and between operators. ms: without the profiler.  ",
        f"Made by `python {shlex.join(sys.argv)}`.",
        "",
        f"| {' | '.join(titles)} |",
        f"|{'---|' * len(titles)}",
    ]
    print("\n".join(lines))
    for cell in cells:
        lines.append(row(*cell))
        print(lines[-1], flush=True)
    arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
