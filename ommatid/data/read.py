"""Read a listing's images once when it is opened, so that a bad file is found before a training and not inside it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from ommatid.data.decode import image_size, read_image
from ommatid.data.errors import Skipped, UnreadableImageError
from ommatid.data.record import Record, Source

MEMORY_BYTES = 1 << 30
MEMORY_IMAGES = 100_000
"""A data set within both is decoded whole when opened and kept in memory; of a larger one only headers are read."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def read_records(records: list[Record]) -> tuple[list[Record], list[Skipped], int]:
    """The records that can be read, their sources in memory if all fit; those that cannot; the median shorter side."""
    sized, skipped = try_each(records, _size_of(records))
    sizes = [size for _, size in sized]
    records = [record for record, _ in sized]
    if len(sizes) <= MEMORY_IMAGES and sum(3 * width * height for width, height in sizes) <= MEMORY_BYTES:
        decoded, broken = try_each(records, lambda record: read_pixels(record.source))
        records = [replace(record, source=pixels) for record, pixels in decoded]
        skipped += broken
    return records, skipped, int(np.median([min(size) for size in sizes])) if sizes else 0


def read_pixels(source: Source) -> np.ndarray:
    """(H, W, 3) uint8, as it lies in memory or decoded now. Raises UnreadableImageError."""
    if isinstance(source, np.ndarray):
        return source
    return np.array(read_image(source) if isinstance(source, Path) else source())


def try_each(
    records: list[Record], read: Callable[[Record], Answer]
) -> tuple[list[tuple[Record, Answer]], list[Skipped]]:
    """Apply `read` to every record, in threads: (record, answer) where it worked, the reason where it did not."""

    def attempt(record: Record) -> Answer | UnreadableImageError:
        try:
            return read(record)
        except UnreadableImageError as reason:
            return reason

    answered, skipped = [], []
    for record, answer in zip(records, _in_threads(attempt, records), strict=True):
        if isinstance(answer, UnreadableImageError):
            skipped.append(Skipped(record.name, str(answer)))
        else:
            answered.append((record, answer))
    return answered, skipped


def _in_threads(work: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # Pillow's, on odd metadata: one line per file, and no reason to skip it
        return list(pool.map(work, items))


def _size_of(records: list[Record]) -> Callable[[Record], tuple[int, int]]:
    """A function giving a record's (width, height) without decoding it; library data sets are judged by their first."""
    first = next((record.source() for record in records if callable(record.source)), None)

    def size(record: Record) -> tuple[int, int]:
        if isinstance(record.source, Path):
            return image_size(record.source)
        if isinstance(record.source, np.ndarray):
            return record.source.shape[1], record.source.shape[0]
        assert first is not None
        return first.size

    return size
