"""The page of one evaluated pre-training: what was hidden, what was guessed, and what there was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ommatid.report.evaluate_segmentation import gallery
from ommatid.report.formats import whole
from ommatid.report.metric import AGREEMENT
from ommatid.report.page import Section, element, facts, page
from ommatid.report.table import Column, sortable_table

Row = Mapping[str, Any]

LISTED = 1000
"""Rows of the table; evaluation.json has them all."""

VIEWS = {"seen": "Seen", "prediction": "Guessed", "original": "Original"}

READING = (
    "Agreement is 1 - error / error of an empty guess: 0 for a guess of plain grey, 1 for one without fault. "
    "The learner is that of the last epoch; what is hidden of a picture follows from its name."
)


def evaluate_pretraining_page(result: Row) -> str:
    """The self-contained HTML page of an evaluation. Raises ValueError where a picture is not a data URI."""
    headline = {
        "Agreement": AGREEMENT.show(result["agreement"]),
        "Loss": f"{result['loss']:.3f}",
        "Pictures": whole(result["samples"]),
    }
    sections = [
        Section("Summary", [facts(headline, class_="cards"), element("p", READING, class_="note")]),
        Section("Guessed worst", [gallery(result["worst"], VIEWS)]),
        *([Section("Guessed best", [gallery(result["best"], VIEWS)])] if result["best"] else []),
        Section("Pictures", [_table(result["pictures"])]),
        Section("Machine", [facts(result["machine"])]),
        Section("Settings", [facts(result["settings"])]),
    ]
    return page(f"Evaluation of {result['model']}", f"{result['data']}, {result['method']}", sections)


def _table(rows: Sequence[Row]) -> Markup:
    columns = [
        Column("Picture", "path"),
        Column("Agreement", "agreement", AGREEMENT.show, best=max),
        Column("Loss", "loss", "{:.3f}".format, best=min),
    ]
    return sortable_table(columns, rows[:LISTED], "Every picture, and how well it was guessed")
