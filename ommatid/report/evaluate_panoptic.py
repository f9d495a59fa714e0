"""The page of one evaluated panoptic network: which segments it finds, and what it makes of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ommatid.report.evaluate_segmentation import LISTED, VIEWS, colour_key, gallery
from ommatid.report.formats import percent, whole
from ommatid.report.page import Section, element, facts, page
from ommatid.report.table import Column, sortable_table

Row = Mapping[str, Any]

READING = (
    "A segment is found by one of its class that overlaps it by more than half. SQ is how much of each other those "
    "cover, RQ how many are found, of those that are there and those that are told; PQ is SQ times RQ. Each is a mean "
    "over the classes. Pixels without a segment are not judged."
)


def evaluate_panoptic_page(result: Row) -> str:
    """The self-contained HTML page of an evaluation. Raises ValueError where a picture is not a data URI."""
    headline = {
        "PQ": percent(result["pq"]),
        "SQ": percent(result["sq"]),
        "RQ": percent(result["rq"]),
        "PQ of things": percent(result["pq_things"]),
        "PQ of stuff": percent(result["pq_stuff"]),
        "Pictures": whole(result["samples"]),
    }
    sections = [
        Section("Summary", [facts(headline, class_="cards"), element("p", READING, class_="note")]),
        Section("Lowest PQ", [colour_key(result["classes"]), gallery(result["worst"], VIEWS)]),
        *([Section("Highest PQ", [gallery(result["best"], VIEWS)])] if result["best"] else []),
        Section("Per class", [_per_class(result["per_class"])]),
        Section("Pictures", [_table(result["pictures"])]),
        Section("Machine", [facts(result["machine"])]),
        Section("Settings", [facts(result["settings"])]),
    ]
    return page(f"Evaluation of {result['model']}", f"{result['data']}, {len(result['classes'])} classes", sections)


COUNTS = [Column("Found", "found", whole), Column("Missed", "missed", whole), Column("Wrong", "wrong", whole)]
"""Of segments."""


def _per_class(rows: Sequence[Row]) -> Markup:
    columns = [
        Column("Class", "name"),
        Column("Kind", "kind"),
        *(Column(name.upper(), name, percent, best=max) for name in ("pq", "sq", "rq")),
        *COUNTS,
    ]
    return sortable_table(columns, rows, "Which segments of every class are found, and how well they fit")


def _table(rows: Sequence[Row]) -> Markup:
    columns = [Column("Picture", "path"), Column("PQ", "pq", percent, best=max), *COUNTS]
    return sortable_table(columns, rows[:LISTED], "Every picture")
