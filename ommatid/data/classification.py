"""Open labelled images, wherever they come from, as a training and a validation part."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ommatid.data.digits import list_digits
from ommatid.data.errors import DataError, Skipped
from ommatid.data.folder import list_folder
from ommatid.data.read import read_records
from ommatid.data.record import Listing, Record
from ommatid.data.samples import Samples
from ommatid.data.split import apply_split, split_records
from ommatid.data.table import list_table
from ommatid.data.torchvision_sets import list_torchvision


@dataclass(frozen=True)
class ImageData:
    """Labelled images in two parts that index the same `classes`.

    `skipped`: the files passed over so far. `origin`: where the data came from, in words. `native_size`: the median of
    the images' shorter sides, in pixels. `may_flip`: whether a mirror image is still of its class, as those of digits
    are not; a training leaves out the recipe's mirror images where it is not.
    """

    origin: str
    classes: tuple[str, ...]
    train: Samples
    val: Samples
    skipped: list[Skipped]
    native_size: int
    may_flip: bool

    def split(self) -> dict[str, list[str]]:
        """Which image is in which part, by name, ready for JSON; given back to `open_data` it opens the same again."""
        return {"train": list(self.train.paths), "val": list(self.val.paths)}

    def fingerprint(self) -> str:
        """Twelve hex digits that change when a name, a label, a class or the split does."""
        told = [self.classes, self.split(), self.train.labels, self.val.labels]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def open_data(
    spec: str | Path, *, seed: int = 0, val_fraction: float = 0.2, split: dict[str, Any] | None = None
) -> ImageData:
    """Open labelled images and read each once, so that bad files are known, named in `skipped`, and left out.

    spec: `digits` (embedded), an image folder, a CSV with the columns path,label[,split], or `torchvision:NAME`. Data
    without a validation part of its own is split class by class: `val_fraction` of each, drawn with `seed`.
    split: what `ImageData.split()` answered in an earlier opening, to be used instead.
    Raises DataError, in one line that says what to do, for data that cannot be trained on.
    """
    listing = list_labelled(spec)
    records, skipped, native_size = _read(listing, spec)
    if split is not None:
        records = apply_split(records, split)
    elif all(record.split is None for record in records):
        records = split_records(records, seed=seed, val_fraction=val_fraction)
    classes = _classes(records, listing)
    parts = {part: [record for record in records if record.split == part] for part in ("train", "val")}
    _check_parts(parts, classes, spec)
    train, val = (Samples(parts[part], classes, skipped) for part in ("train", "val"))
    return ImageData(str(spec), classes, train, val, skipped, native_size, listing.may_flip)


def open_evaluation(spec: str | Path, classes: Sequence[str]) -> Samples:
    """Open the data to judge a trained model on: its validation part if it comes with one, else all of it.

    classes: the training's, in its order; labels index them. Raises DataError for a label that is not among them.
    """
    listing = list_labelled(spec)
    val = [record for record in listing.records if record.split == "val"]
    records, skipped, _ = _read(Listing(val or listing.records, listing.skipped), spec)
    _check_known({record.label for record in records}, classes, f"{spec}")
    return Samples(records, classes, skipped)


def list_labelled(spec: str | Path) -> Listing:
    """What `open_data` opens, before any image is read. Raises DataError where there is no such data."""
    if spec == "digits":
        return list_digits()
    if isinstance(spec, str) and spec.startswith("torchvision:"):
        return list_torchvision(spec.removeprefix("torchvision:"))
    path = Path(spec).expanduser()
    if os.path.isdir(path):
        return list_folder(path)
    if path.suffix.lower() == ".csv" and os.path.isfile(path):
        return list_table(path)
    problem = "is neither a folder nor a .csv file" if os.path.exists(path) else "does not exist"
    raise DataError(f"{spec} {problem}; give digits, an image folder, a CSV of path,label, or torchvision:NAME")


def _read(listing: Listing, spec: str | Path) -> tuple[list[Record], list[Skipped], int]:
    records, unreadable, native_size = read_records(listing.records)
    if not records:
        name, reason = unreadable[0]
        raise DataError(f"none of the {len(unreadable)} images of {spec} can be read; the first is {name}: {reason}")
    return records, listing.skipped + unreadable, native_size


def _classes(records: list[Record], listing: Listing) -> tuple[str, ...]:
    if listing.classes is not None:
        return listing.classes
    return tuple(sorted({record.label for record in records if record.split == "train"}))


def _check_parts(parts: dict[str, list[Record]], classes: tuple[str, ...], spec: str | Path) -> None:
    for part, records in parts.items():
        if not records:
            raise DataError(
                f"{spec}: the {part} part holds no readable image; add some, or leave out its folder or rows"
            )
    trained = {record.label for record in parts["train"]}
    if len(classes) < 2:
        raise DataError(f"{spec} has the single class {classes[0]!r}; put images of a second class beside it")
    _check_known({record.label for record in parts["val"]}, sorted(trained), f"{spec}, validation")


def _check_known(labels: set[str], classes: Sequence[str], where: str) -> None:
    unknown = sorted(labels - set(classes))
    if unknown:
        raise DataError(
            f"{where}: the label {', '.join(map(repr, unknown[:5]))} was never seen in training (which has "
            f"{', '.join(map(repr, classes[:10]))}{', ...' if len(classes) > 10 else ''}); "
            "rename it, remove its images, or train on it"
        )
