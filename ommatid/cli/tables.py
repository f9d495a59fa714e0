"""Rows as a table in the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(rows: Sequence[Any]) -> None:
    """Prints dataclass instances or dicts, one per row, under the names of their fields."""
    records = [row if isinstance(row, dict) else dataclasses.asdict(row) for row in rows]
    if not records:
        Console(stderr=True).print("nothing found")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in records[0]:
        numeric = all(isinstance(record[name], int | float | None) for record in records)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left")
    for record in records:
        table.add_row(*(Text(_cell(value)) for value in record.values()))
    Console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
