"""Rows as a table in the terminal."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ommatid.report.formats import count, plain, significant

UNBOUNDED = 1000


def terminal() -> Console:
    """Standard output. Where it is a file or a pipe, a row is one line, however long, so that it can be searched."""
    return Console(width=None if sys.stdout.isatty() else UNBOUNDED, highlight=False)


def print_table(rows: Sequence[Any]) -> None:
    """Prints dataclass instances, one per row, under the names of their fields."""
    if not rows:
        Console(stderr=True).print("nothing found")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    records = [dataclasses.asdict(row) for row in rows]
    for position, name in enumerate(records[0]):
        numeric = all(isinstance(record[name], int | float | None) for record in records)
        # The first names the row; cut or folded it could not be copied.
        table.add_column(name, justify="right" if numeric else "left", no_wrap=position == 0, overflow="fold")
    for record in records:
        table.add_row(*(Text(_cell(value)) for value in record.values()))
    terminal().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " × ".join(map(str, value))
    if isinstance(value, int | float):
        return count(value) if isinstance(value, int) else significant(value)
    return plain(value)
