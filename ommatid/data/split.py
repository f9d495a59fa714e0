"""Divide records between training and validation."""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from ommatid.data.errors import DataError
from ommatid.data.record import Record


def split_records(records: list[Record], *, seed: int, val_fraction: float) -> list[Record]:
    """Mark each record as train or val at random, class by class: each class with two images or more is in both.

    A class with a single image goes to training, with a warning. Raises DataError for a fraction that is not in (0, 1).
    """
    from sklearn.model_selection import train_test_split

    if not 0 < val_fraction < 1:
        raise DataError(f"val_fraction is {val_fraction}; allowed: between 0 and 1, both excluded")
    members: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        members[record.label].append(record)
    val: set[str] = set()
    for label, images in members.items():
        if len(images) == 1:
            warnings.warn(f"class {label!r} has a single image: it is trained on and never validated", stacklevel=3)
            continue
        count = min(max(round(val_fraction * len(images)), 1), len(images) - 1)
        names = [record.name for record in images]
        val.update(train_test_split(names, test_size=count, random_state=seed)[1])
    return [replace(record, split="val" if record.name in val else "train") for record in records]


def two_parts(
    records: list[Record], spec: str | Path, *, seed: int, val_fraction: float, split: dict[str, Any] | None
) -> dict[str, list[Record]]:
    """Pictures without labels by part, "train" and "val": as `split` says, as they came, or else at random.

    Raises DataError where a part has no picture, and as of `split_records` and `apply_split`.
    """
    if split is not None:
        records = apply_split(records, split)
    elif all(record.split is None for record in records):
        if len(records) < 2:
            raise DataError(f"{spec} has one readable picture; add another, to judge by what was not trained on")
        records = split_records(records, seed=seed, val_fraction=val_fraction)
    parts = {part: [record for record in records if record.split == part] for part in ("train", "val")}
    for part, members in parts.items():
        if not members:
            raise DataError(f"{spec}: the {part} part holds no readable picture; add some, or leave out its folder")
    return parts


def apply_split(records: list[Record], split: dict[str, Any]) -> list[Record]:
    """The records that a split written earlier names, in its order. Raises DataError when one of them is missing."""
    by_name = {record.name: record for record in records}
    try:
        wanted = [(name, part) for part in ("train", "val") for name in split[part]]
    except (KeyError, TypeError):
        raise DataError("the split must be a dict with the lists 'train' and 'val' of paths") from None
    missing = [name for name, _ in wanted if name not in by_name]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(wanted)} images in the recorded split are missing or unreadable, "
            f"the first is {missing[0]}; restore them, or start anew without the split"
        )
    return [replace(by_name[name], split=part) for name, part in wanted]
