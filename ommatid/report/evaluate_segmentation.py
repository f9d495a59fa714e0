"""The page of one evaluated segmentation network: which classes it tells apart, and what it makes of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ommatid.report.confusion import confused_pairs, confusion_array, confusion_figure
from ommatid.report.drawing import class_colours
from ommatid.report.formats import percent, whole
from ommatid.report.page import Section, element, facts, page
from ommatid.report.table import Column, sortable_table

Row = Mapping[str, Any]

VIEWS = {"picture": "Picture", "prediction": "Prediction", "truth": "Truth"}


def evaluate_segmentation_page(result: Row) -> str:
    """The self-contained HTML page of an evaluation. Raises ValueError where a picture is not a data URI."""
    headline = {
        "mIoU": percent(result["miou"]),
        "Pixel accuracy": percent(result["pixel_accuracy"]),
        "Mean accuracy": percent(result["mean_accuracy"]),
        "Pictures": whole(result["samples"]),
    }
    matrix = confusion_array(result["confusion"], result["classes"])
    sections = [
        Section("Summary", [facts(headline, class_="cards"), element("p", READING, class_="note")]),
        Section("Told apart worst", [colour_key(result["classes"]), gallery(result["worst"], VIEWS)]),
        *([Section("Told apart best", [gallery(result["best"], VIEWS)])] if result["best"] else []),
        Section("Per class", [_per_class(result["per_class"])]),
        Section("Confusion", [confusion_figure(matrix, result["classes"]), confused_pairs(matrix, result["classes"])]),
        Section("Pictures", [_table(result["pictures"])]),
        Section("Machine", [facts(result["machine"])]),
        Section("Settings", [facts(result["settings"])]),
    ]
    return page(f"Evaluation of {result['model']}", f"{result['data']}, {len(result['classes'])} classes", sections)


READING = (
    "IoU of a class: pixels that are of it and called so, by those that are either. It is counted over all pictures "
    "together; pixels without a class are left out."
)

LISTED = 1000
"""Rows of the table; evaluation.json has them all."""


def colour_key(classes: Sequence[str]) -> Markup:
    """The colour of each class."""
    colours = class_colours(len(classes))
    entries = (
        element("span", element("i", style=f"background:rgb({r},{g},{b})", class_="swatch"), f" {name} ")
        for name, (r, g, b) in zip(classes, np.asarray(colours).tolist(), strict=True)
    )
    return element("p", *entries, class_="note")


def gallery(rows: Sequence[Row], views: Mapping[str, str]) -> Markup:
    """Each row's pictures side by side."""
    return element("div", *(_view(row, name, views) for row in rows for name in views), class_="gallery triples")


def _view(row: Row, name: str, views: Mapping[str, str]) -> Markup:
    if not row[name].startswith("data:image/"):
        raise ValueError(f"{row['path']}: the picture {name} must be a data URI (data:image/...)")
    picture = element("img", src=row[name], alt=f"{row['path']}, {views[name].lower()}", loading="lazy")
    told = row["told"] if name == "prediction" else row["path"]
    return element("figure", picture, element("figcaption", element("strong", views[name]), told))


def _per_class(rows: Sequence[Row]) -> Markup:
    columns = [
        Column("Class", "name"),
        Column("IoU", "iou", percent, best=max),
        Column("Accuracy", "accuracy", percent, best=max),
        Column("Share of pixels", "share", percent),
    ]
    return sortable_table(columns, rows, "IoU of every class, and how many of its pixels are right")


def _table(rows: Sequence[Row]) -> Markup:
    columns = [
        Column("Picture", "path"),
        Column("mIoU", "miou", percent, best=max),
        Column("Pixel accuracy", "pixel_accuracy", percent, best=max),
    ]
    return sortable_table(columns, rows[:LISTED], "Every picture")
