"""parts: what a pyramid can be composed of, by name."""

from __future__ import annotations

import fnmatch
import inspect
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from ommatid.nn.parts import Part, Role, parts
from ommatid.ops.refusal import suggest
from ommatid.runs.files import check_writable, write_json


@dataclass(frozen=True)
class PartRow:
    """A part of a pyramid: its name and role, where it was published, its cost for a map H x W of C channels, and its
    options; those without a value follow from the place where none is given."""

    part: str
    role: str
    paper: str
    cost: str
    options: str
    idea: str


def parts_table(pattern: str = "*", *, role: str | None = None, json_path: str | Path | None = None) -> list[PartRow]:
    """The parts whose names match a wildcard pattern, by role and name; of one role where it is named.

    json_path: where to write the rows as JSON.

    Raises:
        ValueError: none matches, or there is no such role; with close names.
    """
    if json_path is not None:
        check_writable(Path(json_path))
    roles: tuple[Role, ...] = get_args(Role)
    if role is not None and role not in roles:
        raise ValueError(f"role = {role!r} is not possible{suggest(role, roles)}: allowed is {', '.join(roles)}")
    found = [part for one in roles if role in (None, one) for part in parts(one).values()]
    rows = [_row(part) for part in found if fnmatch.fnmatch(part.name, pattern)]
    if not rows:
        raise ValueError(f"no part matches {pattern!r}{suggest(pattern, {part.name for part in found})}")
    if json_path is not None:
        write_json(Path(json_path), [asdict(row) for row in rows])
    return rows


def _row(part: Part) -> PartRow:
    options = ", ".join(map(_option, part.options.values())) if part.role in ("mixer", "channel_mixer") else ""
    return PartRow(part.name, part.role, part.papers, part.cost, options, part.idea)


def _option(parameter: inspect.Parameter) -> str:
    default = parameter.default
    return parameter.name if default is parameter.empty or default is None else f"{parameter.name}={default}"
