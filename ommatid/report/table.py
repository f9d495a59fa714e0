"""A table whose rows are sorted by clicking a header or pressing Enter on it (see assets/page.js)."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ommatid.report.formats import is_number, plain
from ommatid.report.page import element


@dataclass(frozen=True)
class Column:
    """One column.

    key: the row's entry that is shown and sorted by. show: how it is written (text, or Markup).
    best: max or min where one end is better; the best cell is marked and the first click puts it on top.
    detail: an entry written small under the value.
    """

    title: str
    key: str
    show: Callable[[Any], object] = plain
    best: Callable[..., Any] | None = None
    detail: str | None = None


def sortable_table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], caption: str) -> Markup:
    """The rows as a table; the first column names the row, what is missing sorts last."""
    head = element("tr", *(_header(column, rows) for column in columns))
    # Cells are written column by column, because alignment and the best value belong to the column.
    by_column = [_cells(column, rows, "td" if index else "th") for index, column in enumerate(columns)]
    body = (element("tr", *cells) for cells in zip(*by_column, strict=True))
    table = element(
        "table", element("caption", caption), element("thead", head), element("tbody", *body), class_="sortable"
    )
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)


def is_numeric(column: Column, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any row has a number there; such columns are aligned right."""
    return any(is_number(row.get(column.key)) for row in rows)


def _header(column: Column, rows: Sequence[Mapping[str, Any]]) -> Markup:
    return element(
        "th",
        element("button", column.title, type="button"),
        scope="col",
        aria_sort="none",
        class_="number" if is_numeric(column, rows) else None,
        data_first="descending" if column.best is max else "ascending",
    )


def _cells(column: Column, rows: Sequence[Mapping[str, Any]], tag: str) -> list[Markup]:
    values = {row[column.key] for row in rows if is_number(row.get(column.key))}
    winner = column.best(values) if column.best and len(values) > 1 else None
    alignment = "number" if is_numeric(column, rows) else None
    cells = []
    for row in rows:
        value = row.get(column.key)
        detail = row.get(column.detail) if column.detail else None
        cells.append(
            element(
                tag,
                column.show(value),
                element("small", detail) if detail else None,
                scope="row" if tag == "th" else None,
                class_="number best" if winner is not None and value == winner else alignment,
                data_value=value if is_number(value) else None,
            )
        )
    return cells


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows, the names of the columns first, as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
