"""systems: what the catalogue knows, and what of it is built here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ommatid.catalog.systems import areas, matching
from ommatid.models import families
from ommatid.models.config import suggest
from ommatid.runs.files import check_writable, write_json


@dataclass(frozen=True)
class SystemRow:
    """A system of the catalogue; `where` is the module that implements it, None where it is not built here."""

    id: str
    area: str
    title: str
    where: str | None


def search_systems(query: str = "", area: str | None = None, *, json_path: str | Path | None = None) -> list[SystemRow]:
    """Systems that have every word of the query in their id or title, in one area if given.

    json_path: where to write the rows as JSON.

    Raises:
        ValueError: there is no such area; with close names and all that exist.
    """
    if area is not None and area not in areas():
        raise ValueError(f"no area is called {area!r}{suggest(area, areas())}; areas: {', '.join(areas())}")
    if json_path is not None:
        check_writable(Path(json_path))
    homes = {id: family.model.__module__ for id, family in families().items()}
    rows = [SystemRow(system.id, system.area, system.title, homes.get(system.id)) for system in matching(query, area)]
    if json_path is not None:
        write_json(Path(json_path), [asdict(row) for row in rows])
    return rows
