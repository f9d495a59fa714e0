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
from ommatid.measuring.peers import Against, output_error, summarize, timm_twin
from ommatid.measuring.timing import Call, alternate, thread_count
from ommatid.models import create_model
from ommatid.nn.deploy import deployed_copy

RESULTS = Path(__file__).parent / "results" / "against_timm.md"
MODELS = ["vit_tiny", "vit_small", "swin_tiny", "convnext_tiny", "pvt_v2_b0", "pvt_v2_b1", "pvt_v2_b2"]
SIZE = 224
CPU = torch.device("cpu")
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
    image, label = image_for(ours, arguments.batch, (SIZE, SIZE)), torch.randint(1000, (arguments.batch,))

    def compare(kind: str, subject: Call, peer: Call) -> str:
        limits = {"rounds": arguments.rounds, "seconds": arguments.seconds, "clock": CLOCKS[arguments.clock]}
        return row(kind, summarize(name, alternate([subject, peer], CPU, **limits), error))

    rows = []
    with thread_count(arguments.threads):
        for kind, subject in (("forward", ours), ("deployed forward", deployed_copy(ours))):
            error = output_error(subject, theirs, image)
            with torch.inference_mode():
                rows.append(compare(kind, partial(subject, image), partial(theirs, image)))
        steps = training_step(ours, image, label), training_step(theirs, image, label)
        return [*rows, compare("training step", *steps)]


def row(kind: str, result: Against) -> str:
    quartiles = f"{result.ratio_p25:.2f} – {result.ratio_p75:.2f}"
    cells = [result.name, kind, f"{result.latency_ms:.0f}", f"{result.ratio:.2f}", quartiles, f"{result.error:.0e}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: fairer on a machine that is busy")
    parser.add_argument("--seconds", type=float, default=120.0, help="for one comparison, at most")
    arguments = parser.parse_args()

    machine = describe_machine() | {"threads": arguments.threads}
    lines = [
        "# Against timm, with equal weights",
        "",
        f"{', '.join(f'{name} {value}' for name, value in machine.items())}.  ",
        f"Batch {arguments.batch}, {SIZE} x {SIZE}, float32, eager. Training step: forward, backward, AdamW.  ",
        f"Ratio: timm's {arguments.clock} time / ours, median of {arguments.rounds} pairs: above 1 ours is faster.  ",
        "Error: largest difference of outputs, as a fraction of their largest magnitude.  ",
        f"Made by `python {shlex.join(sys.argv)}`.",
        "",
        "| model | pass | timm, ms | ratio | quartiles | error |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        for rows in processes.imap(partial(comparisons, arguments=arguments), arguments.models, chunksize=1):
            lines += rows
            print("\n".join(rows), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
