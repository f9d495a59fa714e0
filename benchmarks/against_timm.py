"""Our models against timm's of the same architecture, with equal weights: forward, deployed forward, training step.

The two alternate in one process, ours, timm's, ours, timm's, ...; the ratio is timm's time divided by ours, taken in
each pair of neighbours: above 1 ours is faster. Outputs are checked to agree first. Eager mode, float32, CPU; a process
for each model.

    python benchmarks/against_timm.py --threads 1
"""

import argparse
import multiprocessing
import shlex
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.measuring.machine import describe_machine
from ommatid.measuring.measure import image_for
from ommatid.measuring.peers import Against, output_error, published_size, summarize, timm_twin
from ommatid.measuring.timing import Call, alternate, thread_count
from ommatid.measuring.timm_families import SUITE
from ommatid.models import create_model
from ommatid.models.sizes import pair
from ommatid.nn.deploy import deployed_copy

RESULTS = Path(__file__).parent / "results" / "against_timm.md"
CPU = torch.device("cpu")
PASSES = ["forward", "deployed forward", "training step"]
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def training_step(model: nn.Module, image: Tensor, label: Tensor) -> Call:
    """One forward pass, backward pass and AdamW step."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(image), label).backward()
        optimizer.step()

    return step


def comparisons(name: str, arguments: argparse.Namespace) -> list[str]:
    """The three comparisons of one model, as rows. Training comes last, because it changes the weights.

    Meant for a process of its own: what the models before it left in the allocator's hands would change the times.
    """
    ours = create_model(name).eval()
    theirs = timm_twin(name, ours)
    size = pair(arguments.size or published_size(theirs))
    image, label = image_for(ours, arguments.batch, size), torch.randint(1000, (arguments.batch,))

    def compare(kind: str, subject: Call, peer: Call) -> str:
        limits = {"rounds": arguments.rounds, "seconds": arguments.seconds, "clock": CLOCKS[arguments.clock]}
        return row(kind, size, summarize(name, alternate([subject, peer], CPU, **limits), error))

    rows = []
    with thread_count(arguments.threads):
        for kind, subject in (("forward", ours), ("deployed forward", deployed_copy(ours))):
            error = output_error(subject, theirs, image)
            if kind in arguments.passes:
                with torch.inference_mode():
                    rows.append(compare(kind, partial(subject, image), partial(theirs, image)))
        if "training step" in arguments.passes:
            steps = training_step(ours, image, label), training_step(theirs, image, label)
            rows.append(compare("training step", *steps))
        return rows


def row(kind: str, size: tuple[int, int], result: Against) -> str:
    cells = [
        result.name,
        " x ".join(map(str, size)),
        kind,
        f"{result.latency_ms:.0f}",
        f"{result.ratio:.2f}",
        f"{result.ratio_p25:.2f} – {result.ratio_p75:.2f}",
        f"{result.error:.0e}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=SUITE)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--size", type=int, help="side of the images; the one that timm publishes its model for if none"
    )
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: fairer on a machine that is busy")
    parser.add_argument("--seconds", type=float, default=120.0, help="for one comparison, at most")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    machine = describe_machine() | {"threads": arguments.threads}
    lines = [
        "# Against timm, with equal weights",
        "",
        f"{', '.join(f'{name} {value}' for name, value in machine.items())}.  ",
        f"Batch {arguments.batch}, float32, eager. Training step: forward, backward, AdamW.  ",
        f"Ratio: timm's {arguments.clock} time / ours, median of {arguments.rounds} pairs: above 1 ours is faster.  ",
        "Error: largest difference of outputs, as a fraction of their largest magnitude.  ",
        f"Made by `python {shlex.join(sys.argv)}`.",
        "",
        "| model | image | pass | timm, ms | ratio | quartiles | error |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        for rows in processes.imap(partial(comparisons, arguments=arguments), arguments.models, chunksize=1):
            lines += rows
            print("\n".join(rows), flush=True)
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
