"""Pairs of pictures, before and after restoration: both have to be read, and fit each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ommatid.data.degrade.spec import FACTORS
from ommatid.data.errors import Skipped, UnreadableImageError
from ommatid.data.picture_folder import INPUT, TARGET
from ommatid.data.picture_samples import stored_size
from ommatid.data.read import read_records, try_each
from ommatid.data.record import Record


def read_pairs(records: list[Record], skipped: list[Skipped]) -> tuple[list[Record], int]:
    """The pairs whose degraded picture can be read too, all of one scale, and that scale; others go to `skipped`."""
    scaled, unfit = try_each(_with_degraded(records, skipped), _scale)
    skipped.extend(unfit)
    usual = Counter(scale for _, scale in scaled).most_common(1)[0][0] if scaled else 1
    for record, scale in scaled:
        if scale != usual:
            skipped.append(Skipped(record.name, f"{scale} times as large as its {INPUT}; most are {usual} times"))
    return [record for record, scale in scaled if scale == usual], usual


def _with_degraded(records: list[Record], skipped: list[Skipped]) -> list[Record]:
    sources = [replace(record, source=record.degraded) for record in records if record.degraded is not None]
    readable, unreadable, _ = read_records(sources)
    skipped.extend(Skipped(name, f"its {INPUT}: {reason}") for name, reason in unreadable)
    degraded = {record.name: record.source for record in readable}
    return [replace(record, degraded=degraded[record.name]) for record in records if record.name in degraded]


def _scale(record: Record) -> int:
    assert record.degraded is not None
    (width, height), clean = stored_size(record.degraded), stored_size(record.source)
    for scale in (1, *FACTORS):
        if clean == (scale * width, scale * height):
            return scale
    raise UnreadableImageError(
        f"{clean[0]} x {clean[1]} pixels, its {INPUT} {width} x {height}; "
        f"a {TARGET} is as large, or {', '.join(map(str, FACTORS))} times"
    )
