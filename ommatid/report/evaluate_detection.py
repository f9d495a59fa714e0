"""The page of one evaluated detector: what it finds, and what it makes of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ommatid.report.evaluate_segmentation import colour_key, gallery
from ommatid.report.figure import PALETTE, figure, new_figure
from ommatid.report.formats import percent, whole
from ommatid.report.page import Section, element, facts, page
from ommatid.report.table import Column, sortable_table

Row = Mapping[str, Any]

VIEWS = {"picture": "Picture", "prediction": "Found", "truth": "Truth"}

LISTED = 1000
"""Rows of the table; evaluation.json has them all."""

READING = (
    "AP is COCO's average precision: the mean over overlaps (IoU) from 0.5 to 0.95 and over the classes. Pictures show "
    "what was found with a score of at least {score:.2f}; what is right there overlaps a thing of its class by half."
)


def evaluate_detection_page(result: Row) -> str:
    """The self-contained HTML page of an evaluation. Raises ValueError where a picture is not a data URI."""
    headline = {
        "AP": percent(result["ap"]),
        "AP50": percent(result["ap50"]),
        "AP75": percent(result["ap75"]),
        "Recall of 100": percent(result["ar"]),
        "Pictures": whole(result["samples"]),
        "Things": whole(result["things"]),
    }
    by_size = {name: percent(result[f"ap_{name}"]) for name in ("small", "medium", "large")}
    note = READING.format(score=result["settings"]["score"])
    sections = [
        Section("Summary", [facts(headline, class_="cards"), element("p", note, class_="note")]),
        Section("Most mistakes", [colour_key(result["classes"]), gallery(result["worst"], VIEWS)]),
        *([Section("Fewest mistakes", [gallery(result["best"], VIEWS)])] if result["best"] else []),
        Section("Per class", [_per_class(result["per_class"])]),
        Section("Precision and recall", [_curves(result["per_class"])]),
        Section("By size", [facts(by_size), element("p", SIZES, class_="note")]),
        Section("Pictures", [_table(result["pictures"])]),
        Section("Machine", [facts(result["machine"])]),
        Section("Settings", [facts(result["settings"])]),
    ]
    return page(f"Evaluation of {result['model']}", f"{result['data']}, {len(result['classes'])} classes", sections)


SIZES = "AP of things of less than 32 x 32 pixels (small), less than 96 x 96 (medium), and more."


def _per_class(rows: Sequence[Row]) -> Markup:
    columns = [
        Column("Class", "name"),
        Column("AP", "ap", percent, best=max),
        Column("AP50", "ap50", percent, best=max),
        Column("Things", "things", whole),
        Column("Found", "found", whole),
        Column("Right", "right", whole),
    ]
    return sortable_table(columns, rows, "What is found of every class, at the score of the pictures")


def _curves(rows: Sequence[Row]) -> Markup:
    plot = new_figure("Recall", "Precision")
    for number, row in enumerate(rows):
        plot.add_scatter(
            x=row["recall"],
            y=row["precision"],
            mode="lines",
            name=row["name"],
            line={"color": PALETTE[number % len(PALETTE)], "width": 2},
            hovertemplate="%{fullData.name}<br>recall %{x:.0%}, precision %{y:.0%}<extra></extra>",
        )
    plot.update_xaxes(range=[0, 1.02], tickformat=".0%")
    plot.update_yaxes(range=[0, 1.02], tickformat=".0%")
    return figure(plot, "Precision against recall", "At an overlap of 0.5, one line for each class.")


def _table(rows: Sequence[Row]) -> Markup:
    columns = [
        Column("Picture", "path"),
        Column("Things", "things", whole),
        Column("Found", "found", whole),
        Column("Right", "right", whole),
        Column("Missed", "missed", whole),
        Column("Wrong", "wrong", whole),
    ]
    return sortable_table(columns, rows[:LISTED], "Every picture, at the score of the pictures")
