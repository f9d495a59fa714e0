"""What every source of labelled images answers with: records, and what it passed over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ommatid.data.errors import DataError, Skipped

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")
"""The first of these that a data set has is its validation split."""

Source = np.ndarray | Path | Callable[[], Image.Image]
"""Where an image is: in memory as (H, W, 3) uint8, in a file, or behind a function that gives it in RGB."""


@dataclass(frozen=True)
class Record:
    """One image: a name unique in its data, the label in words, the split it came in, where it is.

    A picture to restore has an empty label, and `degraded` where data come in pairs: where its spoilt twin is.
    """

    name: str
    label: str
    split: str | None
    source: Source
    degraded: Source | None = None


@dataclass(frozen=True)
class Listing:
    """A data set before any image is read.

    `classes`: their order where the source defines one. `may_flip`: whether a mirror image is still of its class.
    """

    records: list[Record]
    skipped: list[Skipped] = field(default_factory=list)
    classes: tuple[str, ...] | None = None
    may_flip: bool = True


def chosen_splits(found: set[str], where: str) -> dict[str, str]:
    """Which of the split names found serve as train and val: {name found: "train" | "val"}. Raises DataError."""
    lower = {name.lower(): name for name in found}
    train = next((lower[name] for name in TRAIN_NAMES if name in lower), None)
    val = next((lower[name] for name in VAL_NAMES if name in lower), None)
    if train is None:
        raise DataError(f"{where} has the split {sorted(found)} but no train; name the training part 'train'")
    return {train: "train"} | ({val: "val"} if val else {})
