"""The catalogue: every published system this library is about, whether it is built here yet or not."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class System:
    """A published system: its id here (the family's name, once it is built), its area and its paper's title."""

    id: str
    area: str
    title: str


@cache
def all_systems() -> tuple[System, ...]:
    """The whole catalogue, sorted by id."""
    lines = (files("ommatid.catalog") / "systems.tsv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    return tuple(sorted((System(**row) for row in rows), key=lambda system: system.id))


@cache
def areas() -> tuple[str, ...]:
    """The areas of the catalogue, sorted."""
    return tuple(sorted({system.area for system in all_systems()}))


def matching(query: str = "", area: str | None = None) -> list[System]:
    """Systems that have every word of the query in their id or title, whatever the case; in one area if given."""
    words = query.casefold().split()
    return [
        system
        for system in all_systems()
        if area in (None, system.area) and all(word in f"{system.id} {system.title}".casefold() for word in words)
    ]
