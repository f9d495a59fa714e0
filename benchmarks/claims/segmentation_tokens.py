"""Fewer tokens in trained segmentation networks: DToP's operations, Expedit's speed, and the mIoU that each keeps.

    ommatid train camvid --task segmentation --size 128 --epochs 14 --lr 1e-3 --out plain-small \\
        --model "vit[patch_size=8,dim=128,depth=8,heads=4]" --decoder linear --set decoder_dim=64
    ommatid train camvid --task segmentation --size 256 --epochs 4 --lr 5e-4 --out plain \\
        --weights plain-small/best.safetensors
    ommatid train camvid --task segmentation --size 128 --epochs 30 --lr 1e-3 --out exiting-small --model dtop \\
        --set patch_size=8 --set dim=128 --set depth=8 --set heads=4 --set "head_after=[3,5,7]" \\
        --set head_dim=64 --set head_heads=2 --set decoder_layers=2
    ommatid train camvid --task segmentation --size 256 --epochs 8 --lr 5e-4 --out exiting \\
        --weights exiting-small/best.safetensors
    python benchmarks/claims/segmentation_tokens.py --plain plain --exiting exiting --test camvid/test

Both are trained for minutes, from nothing, on 367 pictures: the paper's have seen ImageNet. Settings are tried on the
validation part of the run. The one that is taken is judged on other pictures too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from claim import CPU, parser, processor_seconds, report, verdict
from torch import Tensor, nn

from ommatid.measuring.macs import count_macs
from ommatid.measuring.measure import prepared
from ommatid.workflows.reduce_segmenter import SegmenterSubject

KEPT, FASTER = 0.995, 1.4
"""Of Expedit on Segmenter with ViT-L/16 on ADE20K: more than 40 % more pictures a second at this share of the mIoU."""

FEWER, LOST = 0.2, 0.005
"""Of DToP: 21 % (ViT-B, ADE20K) to 33 % fewer operations; mIoU between 0.2 points more and 0.5 less."""

COUNTED = 30
"""Pictures over which multiply-adds are averaged."""

Row = tuple[str, str, str, str]


class Setting(NamedTuple):
    """A network as it was, or at a setting: mIoU on the validation part, and multiply-adds of a picture."""

    name: str
    model: nn.Module
    miou: float
    macs: float


class Compared(NamedTuple):
    """speed: how many times as fast. fewer: share of the multiply-adds that is saved. kept: share of the mIoU. lost:
    of the mIoU. told: all of it in words."""

    speed: float
    fewer: float
    kept: float
    lost: float
    told: str


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--plain", type=Path, help="run of a plain transformer under a decoder")
    made.add_argument("--exiting", type=Path, help="run of a dtop")
    made.add_argument("--test", type=Path, help="pictures that no setting was chosen on")
    arguments = made.parse_args()

    def rows() -> list[Row]:
        timed = partial(processor_seconds, rounds=arguments.rounds, seconds=arguments.seconds)
        claims = ((expedited, arguments.plain), (exited, arguments.exiting))
        return [claim(run, arguments.test, timed) for claim, run in claims if run is not None]

    report(arguments, rows)


def expedited(run: Path, test: Path | None, timed: Callable[..., list[float]]) -> Row:
    """The setting of fewest multiply-adds that keeps as much of the mIoU as the paper's did."""
    subject = SegmenterSubject.open(run, None)
    first, *others = settings(subject)
    near = [other for other in others if other.miou >= KEPT * first.miou]
    found = compared(subject, first, min(near or others[:1], key=lambda other: other.macs), test, timed)
    held = verdict(found.speed, FASTER) if found.kept >= KEPT else f"not here: {found.kept:.0%} of the mIoU kept"
    claim = f"As fast without training, {subject.name} on CamVid: Expedit (arXiv 2210.01035)"
    return claim, f"{FASTER:.2f} times (GPU), {KEPT:.1%} of the mIoU kept", found.told, held


def exited(run: Path, test: Path | None, timed: Callable[..., list[float]]) -> Row:
    """The setting of fewest multiply-adds that loses no more mIoU than the paper's did."""
    subject = SegmenterSubject.open(run, None)
    first, *others = settings(subject)
    near = [other for other in others if other.miou >= first.miou - LOST]
    found = compared(subject, first, min(near or others[:1], key=lambda other: other.macs), test, timed)
    held = verdict(found.fewer, FEWER) if found.lost <= LOST else f"not here: {100 * found.lost:.1f} points lost"
    if held == "not here":
        held += ": few tokens are so sure after so short a training"
    claim = f"Fewer multiply-adds without training, {subject.name} on CamVid: DToP (arXiv 2308.01045)"
    claimed = f"{FEWER:.0%} to 35% fewer, up to {100 * LOST:g} points of mIoU lost"
    return claim, claimed, f"{found.fewer:.0%}: {found.told}", held


def settings(subject: SegmenterSubject) -> list[Setting]:
    """The network as it was, and at each setting."""
    ((method, plan),) = subject.methods.items()
    models: dict[str, nn.Module] = {"as it was": subject.trained.model}
    for number in plan.settings:
        models[f"{method} {number:g}"] = subject.reduced(plan, number, epochs=0, batch=1).eval()
    pictures, found = subject.images(COUNTED), []
    for name, model in models.items():
        form = prepared(subject.timed(model), CPU, "float32")
        macs = mean(count_macs(form, picture) for picture in pictures)
        found.append(Setting(name, model, subject.judge(model, 1), macs))
        print(f"{name}: mIoU {found[-1].miou:.2%}, {macs / 1e9:.3f} G multiply-adds", flush=True)
    return found


def compared(
    subject: SegmenterSubject, first: Setting, taken: Setting, test: Path | None, timed: Callable[..., list[float]]
) -> Compared:
    """Times on real pictures, one at a time, and mIoU on the test part; on the validation part where there is none."""
    pictures = subject.images(len(subject.samples))
    with torch.inference_mode():
        slow, fast = timed([call(subject.timed(each.model), pictures) for each in (first, taken)])
    told = (
        f"{taken.name} is {slow / fast:.2f} times as fast ({1e3 * fast:.0f} ms against {1e3 * slow:.0f} ms, batch 1; "
        f"{taken.macs / 1e9:.2f} G multiply-adds against {first.macs / 1e9:.2f} G), "
        f"mIoU {taken.miou:.1%} against {first.miou:.1%}"
    )
    before, after = first.miou, taken.miou
    if test is not None:
        unseen = SegmenterSubject.open(subject.trained.path, test)
        before, after = (unseen.judge(each.model, 1) for each in (first, taken))
        told += f", on the test part {after:.1%} against {before:.1%}"
    return Compared(slow / fast, 1 - taken.macs / first.macs, after / before, before - after, told)


def call(model: nn.Module, pictures: Sequence[Tensor]) -> Callable[[], object]:
    """Takes the next picture every time."""
    turn = cycle(pictures)
    return lambda: model(next(turn))


if __name__ == "__main__":
    main()
