"""Pictures without labels, each with random numbers that say what is hidden of it: what networks are pre-trained on."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ommatid.data.augment import ImageTransform
from ommatid.data.classification import ImageData, list_labelled
from ommatid.data.errors import DataError, Skipped
from ommatid.data.loader import Loader, epoch_loader
from ommatid.data.picture_folder import list_unpaired
from ommatid.data.read import read_records
from ommatid.data.record import Listing, Record
from ommatid.data.samples import Samples
from ommatid.data.split import two_parts

NO_CLASSES = ("",)
"""All pictures are of one class without a name."""


def open_unlabelled(
    spec: str | Path, *, seed: int = 0, val_fraction: float = 0.1, split: dict[str, Any] | None = None
) -> ImageData:
    """Open pictures and read each once, so that bad files are known, named in `skipped`, and left out.

    spec: a folder with pictures anywhere in it, or what `open_data` takes, whose labels are ignored. Data without a
    validation part of its own is split: `val_fraction`, by `seed`.
    split: what `ImageData.split()` answered in an earlier opening, to be used instead.
    Raises DataError, in one line that says what to do, for data that cannot be trained on.
    """
    listing = _list(spec)
    records, skipped, native_size = _read(listing, spec)
    parts = two_parts(records, spec, seed=seed, val_fraction=val_fraction, split=split)
    train, val = (Samples(parts[part], NO_CLASSES, skipped) for part in ("train", "val"))
    return ImageData(str(spec), NO_CLASSES, train, val, skipped, native_size, listing.may_flip)


def open_unlabelled_evaluation(spec: str | Path) -> Samples:
    """Open pictures to judge on: the validation part if they come with one, else all of them. Raises DataError."""
    listing = _list(spec)
    val = [record for record in listing.records if record.split == "val"]
    records, skipped, _ = _read(Listing(val or listing.records, listing.skipped), spec)
    return Samples(records, NO_CLASSES, skipped)


def make_noise_loader(
    samples: Samples, transform: ImageTransform, numbers: int, *, fixed: bool, **options: Any
) -> Loader:
    """A loader of (images (batch, 3, size, size) float, noise (batch, numbers) from 0 to 1).

    The noise of a picture depends on (seed, epoch, index); where `fixed`, on the picture's name alone. options: as of
    `epoch_loader`.
    """
    draw = partial(with_noise, samples, transform, numbers, fixed)
    return epoch_loader(samples, draw, partial(_joined, transform), **options)


def with_noise(
    samples: Samples, transform: ImageTransform, numbers: int, fixed: bool, index: int
) -> tuple[Tensor, Tensor]:
    """A picture's pixels (3, size, size) uint8 and its noise (numbers,), as `make_noise_loader` has them."""
    pixels = transform.pixels(samples.tensor(index)[0])
    name = samples.paths[index].encode()
    generator = torch.Generator().manual_seed(zlib.crc32(name)) if fixed else torch.default_generator
    return pixels, torch.rand(numbers, generator=generator)


def _joined(transform: ImageTransform, drawn: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, noise = zip(*drawn, strict=True)
    return transform.normalize(torch.stack(images)), torch.stack(noise)


def _list(spec: str | Path) -> Listing:
    path = Path(spec).expanduser()
    listing = list_unpaired(path) if os.path.isdir(path) else list_labelled(spec)
    return replace(listing, records=[replace(record, label="") for record in listing.records], classes=None)


def _read(listing: Listing, spec: str | Path) -> tuple[list[Record], list[Skipped], int]:
    records, unreadable, native_size = read_records(listing.records)
    if not records:
        name, reason = unreadable[0]
        raise DataError(f"none of the {len(unreadable)} pictures of {spec} can be read; the first is {name}: {reason}")
    return records, listing.skipped + unreadable, native_size
