"""Every family's smallest image classifier trained for a few short epochs: does the loss fall, is every number finite?

DATA is an image folder, of which the first images of each class are taken. Families that refuse 64 pixels are trained
at the smallest of a few larger sizes that they take.

    python benchmarks/train_families.py cifar10
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import tempfile
from pathlib import Path

import torch
from paired import machine

import ommatid
from ommatid.catalog.variants import counted_parameters
from ommatid.models import families
from ommatid.models.registry import is_classifier

RESULTS = Path(__file__).parent / "results" / "train_families.md"
SIZES = (64, 96, 112, 128, 224)
BATCH = 16


def smallest_variants() -> dict[str, str]:
    """The variant with the fewest parameters of each family of image classifiers that trains on RGB images."""
    counted = counted_parameters()
    chosen = {}
    for id, family in families().items():
        names = [name for name, config in family.variants.items() if is_classifier(family, config)]
        images = [name for name in names if not getattr(family.variants[name], "video", False)]
        if images:
            chosen[id] = min(images, key=lambda name: counted.get(name, math.inf))
    return chosen


def few_images(data: Path, folder: Path, per_class: int) -> Path:
    """A folder with links to the first images of each class, as training part; the next ones are the test part."""
    for kind in sorted(path for path in (data / "train").iterdir() if path.is_dir()):
        images = sorted(kind.iterdir())
        for part, chosen in (("train", images[:per_class]), ("test", images[per_class : 2 * per_class])):
            place = folder / part / kind.name
            place.mkdir(parents=True)
            for image in chosen:
                (place / image.name).symlink_to(image.resolve())
    return folder


def trained(name: str, data: Path, out: Path, epochs: int) -> tuple[int, list[float]]:
    """The size of the images, and the training loss of each epoch."""
    for size in SIZES:
        try:
            result = ommatid.train(
                data, model=name, recipe="quick", epochs=epochs, size=size, batch=BATCH, out=out / f"{name}-{size}",
                progress=False,
            )  # fmt: skip
        except ValueError as error:
            if size == SIZES[-1] or "size" not in str(error):
                raise
            continue
        return size, [row["train_loss"] for row in result.curve]
    raise AssertionError


def row(id: str, name: str, data: Path, out: Path, epochs: int) -> str:
    try:
        size, losses = trained(name, data, out, epochs)
    except Exception as error:  # one family that fails is a finding, not the end of the others
        return f"| {id} | {name} | | | {type(error).__name__}: {' '.join(str(error).split())} |"
    falls = all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    return f"| {id} | {name} | {size} | {' → '.join(f'{loss:.3f}' for loss in losses)} | {'yes' if falls else 'no'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an image folder with train/CLASS/")
    parser.add_argument("--families", default="", help="only these, with commas")
    parser.add_argument("--per-class", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"into {RESULTS.name}")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = smallest_variants()
    wanted = arguments.families.split(",") if arguments.families else list(chosen)
    lines = ["| family | variant | size | training loss by epoch | falls |", "| --- | --- | --- | --- | --- |"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = few_images(arguments.data, Path(folder) / "data", arguments.per_class)
        for id in wanted:
            lines.append(row(id, chosen[id], data, Path(folder) / "runs", arguments.epochs))
            print(lines[-1], flush=True)
    if arguments.write:
        command = f"python benchmarks/train_families.py {shlex.join(sys.argv[1:])}"
        about = f"{machine(arguments.threads)}.  \n{arguments.per_class} images of each class, batches of {BATCH}.  \n"
        RESULTS.write_text(
            f"# A short training of every family\n\n{about}Made by `{command}`.\n\n" + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    main()
