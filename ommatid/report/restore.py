"""The page of restored pictures: each before and after, under a slider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ommatid.report.before_after import before_after
from ommatid.report.formats import MISSING, duration, significant, whole
from ommatid.report.page import Section, bullets, element, facts, page
from ommatid.report.table import Column, sortable_table

Row = Mapping[str, Any]

LISTED = 1000
"""Rows of a list on the page; restored.jsonl has them all."""


def restore_page(result: Row) -> str:
    """The self-contained HTML page of what one `restore` gave.

    Args:
        result: model, degrade (what it undoes, or None), restored (rows of name, before, after, seconds, notes and
            views, which may be empty), skipped (rows of path and reason), settings.

    Raises:
        ValueError: a picture is not a data URI.
    """
    restored, skipped = result["restored"], result["skipped"]
    megapixels = sum(row["after"][0] * row["after"][1] for row in restored) / 1e6
    headline = {
        "Pictures": whole(len(restored)),
        "Megapixels": significant(megapixels),
        "Time": duration(sum(row["seconds"] for row in restored)),
        "Skipped": whole(len(skipped)),
    }
    sections = [
        Section("Summary", [facts(headline, class_="cards")]),
        Section("Before and after", [_sliders(restored)]),
        Section("Pictures", [_list(restored), _left_out(restored)]),
    ]
    if skipped:
        lines = [f"{row['path']}: {row['reason']}" for row in skipped[:LISTED]]
        sections.append(Section("Skipped", [bullets(lines), _left_out(skipped)]))
    sections.append(Section("Settings", [facts(result["settings"])]))
    undone = f"undoes {result['degrade']}" if result["degrade"] else "learned from pairs"
    return page(f"Pictures restored by {result['model']}", undone, sections)


def _sliders(restored: Sequence[Row]) -> Markup:
    shown = [_slider(row["name"], view) for row in restored for view in row["views"]]
    without = sum(not row["views"] for row in restored)
    note = f"{without} more in the list below." if shown else "No previews were kept."
    return element(
        "div", element("div", *shown, class_="figures"), element("p", note, class_="note") if without else None
    )


def _slider(name: str, view: Row) -> Markup:
    for side in ("before", "after"):
        if not view[side].startswith("data:image/"):
            raise ValueError(f"{name}: the picture {side} must be a data URI (data:image/...)")
    caption = element("figcaption", element("strong", name), view["title"])
    return element("figure", before_after(view["before"], view["after"], name), caption)


def _list(restored: Sequence[Row]) -> Markup:
    columns = [
        Column("Picture", "name"),
        Column("Before", "before", _size),
        Column("After", "after", _size),
        Column("Seconds", "seconds", significant),
        Column("Notes", "notes", lambda notes: ", ".join(notes) or MISSING),
    ]
    return sortable_table(columns, restored[:LISTED], "Every restored picture")


def _left_out(rows: Sequence[Row]) -> Markup | None:
    return element("p", f"and {whole(len(rows) - LISTED)} more", class_="note") if len(rows) > LISTED else None


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
