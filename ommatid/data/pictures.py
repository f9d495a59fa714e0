"""Open pictures to restore, wherever they come from, as a training and a validation part."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ommatid.data.degrade import Degradation, parse
from ommatid.data.errors import DataError, Skipped
from ommatid.data.loader import Loader, epoch_loader
from ommatid.data.pairs import read_pairs
from ommatid.data.patches import Pair
from ommatid.data.photographs import list_photographs
from ommatid.data.picture_folder import INPUT, TARGET, list_pictures
from ommatid.data.picture_samples import PictureSamples, stored_size
from ommatid.data.read import read_records, try_each
from ommatid.data.record import Listing, Record
from ommatid.data.split import two_parts

LEAST_SIDE = 32
"""In pixels, of the clean picture: there is nothing to learn from less, and SSIM looks through a window of 11."""

PATCHES_PER_EPOCH = 1600
"""At least, so that an epoch of a few photographs is not over at once."""


@dataclass(frozen=True)
class PictureData:
    """Pictures in two parts that share none, and what is to be undone.

    `skipped`: the files passed over so far. `origin`: where the data came from, in words. `degradation`: None for
    pairs. `scale`: pixels of the restored picture for each of the degraded one, along both axes.
    """

    origin: str
    train: PictureSamples
    val: PictureSamples
    skipped: list[Skipped]
    degradation: Degradation | None
    scale: int

    def split(self) -> dict[str, list[str]]:
        """Which picture is in which part, by name, ready for JSON; given back to `open_pictures` it opens the same."""
        return {"train": list(self.train.paths), "val": list(self.val.paths)}

    def fingerprint(self) -> str:
        """Twelve hex digits that change when a name, the split or the degradation does."""
        told = [self.split(), self.degradation and self.degradation.text, self.scale]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def open_pictures(
    spec: str | Path,
    *,
    degrade: str | None = None,
    seed: int = 0,
    val_fraction: float = 0.2,
    split: dict[str, Any] | None = None,
) -> PictureData:
    """Open pictures and read each once, so that bad files are known, named in `skipped`, and left out.

    spec: `photographs` (embedded), a folder of pictures, or a folder of pairs under input/ and target/; a folder may
    have train/ and val/ above those. Data without a validation part of its own is split: `val_fraction`, by `seed`.
    degrade: what is done to the pictures, as of `degrade.parse`; None for pairs, which is done already.
    split: what `PictureData.split()` answered in an earlier opening, to be used instead.
    Raises DataError, in one line that says what to do, for data that cannot be trained on; ValueError for `degrade`.
    """
    degradation, records, skipped, scale = _read(_list(spec), spec, degrade)
    parts = two_parts(records, spec, seed=seed, val_fraction=val_fraction, split=split)
    crops = -(-PATCHES_PER_EPOCH // len(parts["train"]))
    train = PictureSamples(parts["train"], degradation, scale, skipped, crops=crops)
    val = PictureSamples(parts["val"], degradation, scale, skipped)
    return PictureData(str(spec), train, val, skipped, degradation, scale)


def open_picture_evaluation(spec: str | Path, *, degrade: str | None = None) -> PictureSamples:
    """Open the data to judge a trained network on: its validation part if it comes with one, else all of it.

    Arguments and errors as of `open_pictures`, but that pairs, degraded already, are taken whatever `degrade` is.
    """
    listing = _list(spec)
    if _paired(listing):
        degrade = None
    val = [record for record in listing.records if record.split == "val"]
    degradation, records, skipped, scale = _read(Listing(val or listing.records, listing.skipped), spec, degrade)
    return PictureSamples(records, degradation, scale, skipped)


def make_patch_loader(samples: PictureSamples, side: int, **options: Any) -> Loader:
    """A loader of (degraded (batch, 3, side, side), clean (batch, 3, scale side, scale side)), float, 0 to 1.

    options: as of `epoch_loader`. Pictures too small for a patch are left out now, by name. Raises DataError.
    """
    samples.leave_out_smaller(side)
    return epoch_loader(samples, partial(_patch, samples, side), _stacked, **options)


def make_picture_loader(samples: PictureSamples, most: int | None = None, **options: Any) -> Loader:
    """A loader of one whole picture at a time, or its middle where that has more than `most` clean pixels a side.

    Gives (degraded (1, 3, h, w), clean (1, 3, scale h, scale w)), float, 0 to 1; options: as of `epoch_loader`, without
    `batch` and `shuffle`.
    """
    return epoch_loader(samples, partial(samples.whole, most=most), _stacked, batch=1, shuffle=False, **options)


def _list(spec: str | Path) -> Listing:
    if spec == "photographs":
        return list_photographs()
    path = Path(spec).expanduser()
    if os.path.isdir(path):
        return list_pictures(path)
    problem = "is no folder" if os.path.exists(path) else "does not exist"
    raise DataError(f"{spec} {problem}; give photographs, a folder of pictures, or one with {INPUT}/ and {TARGET}/")


def _read(
    listing: Listing, spec: str | Path, degrade: str | None
) -> tuple[Degradation | None, list[Record], list[Skipped], int]:
    """The degradation, the records that can be read and used, those passed over, and the scale."""
    degradation = _degradation(degrade, _paired(listing), spec)
    records, unreadable, _ = read_records(listing.records)
    skipped = listing.skipped + unreadable
    records = _large_enough(records, skipped)
    if degradation is None:
        records, scale = read_pairs(records, skipped)
    else:
        scale = degradation.scale
    if not records:
        name, reason = skipped[0]
        raise DataError(f"none of the pictures of {spec} can be used; the first is {name}: {reason}")
    return degradation, records, skipped, scale


def _paired(listing: Listing) -> bool:
    return listing.records[0].degraded is not None


def _degradation(degrade: str | None, paired: bool, spec: str | Path) -> Degradation | None:
    if paired and degrade is not None:
        raise DataError(f"{spec} holds pairs, degraded already; leave out degrade ({degrade!r})")
    if not paired and degrade is None:
        raise DataError(
            f"{spec} holds clean pictures; say what is done to them, as in degrade 'bicubic x2', or give pairs"
        )
    return None if degrade is None else parse(degrade)


def _large_enough(records: list[Record], skipped: list[Skipped]) -> list[Record]:
    sized, unreadable = try_each(records, lambda record: stored_size(record.source))
    skipped.extend(unreadable)
    for record, (width, height) in sized:
        if min(width, height) < LEAST_SIDE:
            skipped.append(Skipped(record.name, f"{width} x {height} pixels; {LEAST_SIDE} along both sides are needed"))
    return [record for record, size in sized if min(size) >= LEAST_SIDE]


def _patch(samples: PictureSamples, side: int, index: int) -> Pair:
    return samples.patch(index, side, torch.default_generator)


def _stacked(pairs: list[Pair]) -> tuple[Tensor, Tensor]:
    degraded, clean = zip(*pairs, strict=True)
    return torch.stack(degraded), torch.stack(clean)
