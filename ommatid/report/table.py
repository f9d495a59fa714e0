"""A table whose rows are sorted by clicking a header or pressing Enter on it (see assets/page.js)."""

from collections.abc import Callable, Mapping, Sequence
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
    """

    title: str
    key: str
    show: Callable[[Any], object] = plain
    best: Callable[..., Any] | None = None


def sortable_table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], caption: str) -> Markup:
    """The rows as a table; the first column names the row, what is missing sorts last."""
    winners = [_winner(column, rows) for column in columns]
    head = element("tr", *(_header(column, rows) for column in columns))
    body = (
        element(
            "tr",
            *(
                _cell(column, row, winner, first=column is columns[0])
                for column, winner in zip(columns, winners, strict=True)
            ),
        )
        for row in rows
    )
    table = element(
        "table", element("caption", caption), element("thead", head), element("tbody", *body), class_="sortable"
    )
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _is_numeric(column: Column, rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(is_number(row.get(column.key)) for row in rows)


def _winner(column: Column, rows: Sequence[Mapping[str, Any]]) -> Any:
    values = [row[column.key] for row in rows if is_number(row.get(column.key))]
    return column.best(values) if column.best and len(values) > 1 else None


def _header(column: Column, rows: Sequence[Mapping[str, Any]]) -> Markup:
    return element(
        "th",
        element("button", column.title, type="button"),
        scope="col",
        aria_sort="none",
        class_="number" if _is_numeric(column, rows) else None,
        data_first="descending" if column.best is max else "ascending",
    )


def _cell(column: Column, row: Mapping[str, Any], winner: Any, *, first: bool) -> Markup:
    value = row.get(column.key)
    numeric = is_number(value)
    classes = ["number"] if numeric else []
    if numeric and winner is not None and value == winner:
        classes.append("best")
    return element(
        "th" if first else "td",
        column.show(value),
        scope="row" if first else None,
        class_=" ".join(classes) or None,
        data_value=value if numeric else None,
    )
