"""Which class is taken for which: the confusion matrix as a figure, and its largest errors as a table."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from ommatid.report.figure import figure, new_figure, plot_text
from ommatid.report.formats import percent, short_name, whole
from ommatid.report.page import element
from ommatid.report.table import Column, sortable_table

# Blue for right, orange for wrong, nothing where nothing fell: readable on white and on black.
RIGHT_AND_WRONG = (
    (0, "rgba(217,119,6,1)"),
    (0.5, "rgba(217,119,6,0)"),
    (0.5, "rgba(47,125,225,0)"),
    (1, "rgba(47,125,225,1)"),
)
CLASSES_WITH_NUMBERS = 20
PAIRS_SHOWN = 15


def confusion_array(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> np.ndarray:
    """The counts as an array (true class, predicted class); ValueError where they do not fit the classes."""
    size = len(classes)
    if len(confusion) != size or any(len(row) != size for row in confusion):
        raise ValueError(f"confusion: expected {size} rows of {size} counts, one per class")
    return np.asarray(confusion, dtype=np.int64).reshape(size, size)


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Each row divided by its sum; rows without an image stay 0."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def confusion_figure(matrix: np.ndarray, classes: Sequence[str]) -> Markup:
    """The matrix as a heat map, with the counts written in the cells where there are few classes."""
    size = len(classes)
    shares = row_shares(matrix)
    # The root lifts rare confusions out of the background; the sign separates right from wrong.
    shade = np.sqrt(shares) * np.where(np.eye(size, dtype=bool), 1, -1)
    numbered = size <= CLASSES_WITH_NUMBERS
    plot = new_figure("Predicted", "True")
    plot.add_heatmap(
        z=shade.astype(np.float32),
        x=[plot_text(name) for name in classes],
        y=[plot_text(name) for name in classes],
        customdata=np.dstack([matrix, np.round(100 * shares, 1)]),
        zmin=-1,
        zmax=1,
        colorscale=RIGHT_AND_WRONG,
        showscale=False,
        xgap=1 if numbered else 0,
        ygap=1 if numbered else 0,
        text=np.where(matrix > 0, matrix.astype(str), "") if numbered else None,
        texttemplate="%{text}" if numbered else None,
        hovertemplate=(
            "true %{y}<br>predicted %{x}<br>%{customdata[0]} images, %{customdata[1]} % of the class<extra></extra>"
        ),
    )
    every = math.ceil(size / 100)
    ticks = {
        "type": "category",
        "showgrid": False,
        "tickvals": list(range(0, size, every)),
        "ticktext": [plot_text(short_name(name)) for name in classes[::every]],
        "tickfont": {"size": 12 if numbered else 9},
    }
    side = _cell_pixels(size) * size
    plot.update_xaxes(**ticks, tickangle=-90 if size > CLASSES_WITH_NUMBERS else -45 if size > 6 else 0)
    plot.update_yaxes(**ticks, autorange="reversed")
    note = (
        "Rows are the true class, columns the predicted one. Blue is right, orange is wrong; "
        "the deeper, the larger its share of the row."
    )
    return figure(plot, "Confusion matrix", note, height=side + 130, min_width=side if size > 8 else 0)


def _cell_pixels(size: int) -> int:
    return 34 if size <= CLASSES_WITH_NUMBERS else 13 if size <= 60 else 10 if size <= 120 else 6


def confused_pairs(matrix: np.ndarray, classes: Sequence[str]) -> Markup | None:
    """The largest off-diagonal entries, most frequent first."""
    wrong = matrix * ~np.eye(len(classes), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS_SHOWN]
    shares = row_shares(matrix)
    rows = [
        {"pair": f"{classes[i]} → {classes[j]}", "images": int(wrong[i, j]), "share": float(shares[i, j])}
        for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[i, j]
    ]
    if not rows:
        return None
    columns = [
        Column("True → predicted", "pair"),
        Column("Images", "images", whole),
        Column("Of the true class", "share", percent),
    ]
    return element(
        "div", element("h3", "Most frequent confusions"), sortable_table(columns, rows, "Most frequent confusions")
    )
