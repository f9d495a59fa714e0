"""Images in a second of a training step on this CPU: the plain loop, timm's parts, and what `ommatid train` does.

Every step takes the next batch of its own loader, without workers, so that reading and augmenting count for all alike:
forward pass, loss, backward pass, AdamW. The ways take turns, plain, timm's, ours, plain, ...; ratios are taken in each
turn. Processor time is this process's; where other programs want the cores, it alone is worth reading.

    python benchmarks/training_speed.py --data ../shared/data/cifar10/train --threads 1
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import timm.data
import timm.optim
import torch
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy
from torch import Tensor, nn

from ommatid.data import Augmentation, make_loader, open_data, train_transform
from ommatid.measuring.machine import describe_machine
from ommatid.measuring.timing import Call, quartiles, thread_count
from ommatid.models import create_model
from ommatid.training.optimizer import make_optimizer
from ommatid.training.recipes import load_recipe

RESULTS = Path(__file__).parent / "results" / "training_speed.md"
TIMM = {
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "convnext_tiny": "convnext_tiny",
    "vit_tiny": "vit_tiny_patch16_224",
}
SIZE, CLASSES = 224, 10
SMOOTHING = 0.1
PLAIN = "plain loop, float32"

Loss = Callable[[Tensor, Tensor], Tensor]


def training_step(
    model: nn.Module, batches: Iterator[Any], optimizer: torch.optim.Optimizer, loss: Loss, *, bfloat16: bool = False
) -> Call:
    """One batch, one step of the weights."""

    def step() -> None:
        images, labels = next(batches)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext():
            value = loss(model(images), labels)
        value.backward()
        optimizer.step()

    return step


def our_batches(arguments: argparse.Namespace) -> Iterator[Any]:
    transform = train_transform(Augmentation(crop="resized", flip=0.5), SIZE)
    return iter(make_loader(open_data(arguments.data).train, transform, batch=arguments.batch, shuffle=True, seed=0))


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)


def plain_step(name: str, arguments: argparse.Namespace) -> Call:
    """Our model as anyone would train it: float32, torch.optim.AdamW as it comes."""
    model = create_model(name, num_classes=CLASSES).train()
    return training_step(model, our_batches(arguments), torch.optim.AdamW(model.parameters()), smoothed)


def our_step(name: str, arguments: argparse.Namespace, *, precision: str, compiled: bool = False) -> Call:
    """As `ommatid train` does it: parameter groups, fused AdamW, autocast."""
    model = create_model(name, num_classes=CLASSES).train()
    recipe = load_recipe("finetune").changed(epochs=None, batch=None, lr=None, precision=precision)
    optimizer, _ = make_optimizer(model, recipe=recipe, steps=1000)
    if compiled:
        model.compile()
    return training_step(model, our_batches(arguments), optimizer, smoothed, bfloat16=precision == "bfloat16")


def timm_step(name: str, arguments: argparse.Namespace, *, bfloat16: bool = False) -> Call:
    """timm's model, loader, optimiser and loss, with the defaults of its training script, AdamW chosen."""
    model = timm.create_model(TIMM[name], num_classes=CLASSES).train()
    dataset = timm.data.create_dataset("", str(arguments.data))
    loader = timm.data.create_loader(
        dataset,
        input_size=(3, SIZE, SIZE),
        batch_size=arguments.batch,
        is_training=True,
        use_prefetcher=False,
        num_workers=0,
        persistent_workers=False,
    )
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    return training_step(model, iter(loader), optimizer, LabelSmoothingCrossEntropy(SMOOTHING), bfloat16=bfloat16)


def ways(name: str, arguments: argparse.Namespace) -> dict[str, Call]:
    found = {
        PLAIN: plain_step(name, arguments),
        "timm's parts, float32": timm_step(name, arguments),
        "timm's parts, bfloat16 autocast": timm_step(name, arguments, bfloat16=True),
        "ommatid train, float32": our_step(name, arguments, precision="float32"),
        "ommatid train, bfloat16": our_step(name, arguments, precision="bfloat16"),
    }
    if arguments.compiled:
        found["ommatid train, bfloat16, compiled"] = our_step(name, arguments, precision="bfloat16", compiled=True)
    return found


def timed(calls: dict[str, Call], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, processor) seconds of each call in each round, after one to warm up."""
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in calls}
    for turn in range(rounds + 1):
        for way, call in calls.items():
            wall, processor = time.perf_counter(), time.process_time()
            call()
            if turn:
                times[way].append((time.perf_counter() - wall, time.process_time() - processor))
    return times


def rows(name: str, arguments: argparse.Namespace) -> Iterator[str]:
    with thread_count(arguments.threads):
        times = timed(ways(name, arguments), arguments.rounds)
    for way, measured in times.items():
        cells = [name, way]
        for clock in (0, 1):
            seconds = [pair[clock] for pair in measured]
            ratios = quartiles([plain[clock] / mine[clock] for plain, mine in zip(times[PLAIN], measured, strict=True)])
            speed = arguments.batch / quartiles(seconds).median
            cells += [f"{speed:.2f}", f"{ratios.median:.2f} ({ratios.p25:.2f} to {ratios.p75:.2f})"]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of classes")
    parser.add_argument("--models", nargs="+", default=["swin_tiny", "convnext_tiny"], choices=TIMM)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compiled", action="store_true", help="also with compiled steps; compiling takes minutes")
    arguments = parser.parse_args()
    machine = ", ".join(f"{key} {value}" for key, value in describe_machine().items())
    lines = [
        "# Images per second in training",
        "",
        *[f"Made by `python {shlex.join(sys.argv)}` on {machine}.", ""],
        "`times` is the plain loop's time divided by the row's, median and quartiles of pairs: above 1 is faster.",
        "",
        "| model | way | images/s, wall | times | images/s, processor | times |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name in arguments.models:
        for row in rows(name, arguments):
            lines.append(row)
            print(row, flush=True)
        RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
