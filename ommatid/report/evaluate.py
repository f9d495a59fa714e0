"""The page of one evaluated model: how good, how sure of itself, and where it is wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ommatid.report.confusion import confused_pairs, confusion_array, confusion_figure
from ommatid.report.figure import NEUTRAL, PALETTE, figure, figures, new_figure
from ommatid.report.formats import fixed, is_number, percent, whole
from ommatid.report.page import Section, element, facts, page
from ommatid.report.table import Column, sortable_table

Row = Mapping[str, Any]


def evaluate_page(result: Row) -> str:
    """The self-contained HTML page of an evaluation.

    Raises ValueError where the confusion matrix does not fit the classes or a mistake's image is not a data URI.
    """
    matrix = confusion_array(result["confusion"], result["classes"])
    headline = {
        "Accuracy": percent(result["accuracy"]),
        "Top 5": percent(result["top5"]),
        "Loss": fixed(result["loss"]),
        "Calibration error": percent(result["calibration_error"]),
        "Images": whole(result["samples"]),
    }
    sections = [
        Section("Summary", [facts(headline, class_="cards")]),
        Section("Confusion", [confusion_figure(matrix, result["classes"]), confused_pairs(matrix, result["classes"])]),
        Section("Per class", [_per_class(result["per_class"])]),
        Section("Calibration", [_calibration(result["reliability"])]),
        Section("Worst mistakes", [_gallery(result["mistakes"])]),
        *([Section("Under attack", _attacked(result["attack"]))] if result.get("attack") else []),
        Section("Machine", [facts(result["machine"])]),
        Section("Settings", [facts(result["settings"])]),
    ]
    return page(f"Evaluation of {result['model']}", f"{result['data']}, {len(result['classes'])} classes", sections)


def _per_class(rows: Sequence[Row]) -> Markup:
    columns = [
        Column("Class", "name"),
        Column("Precision", "precision", percent, best=max),
        Column("Recall", "recall", percent, best=max),
        Column("F1", "f1", percent, best=max),
        Column("Images", "support", whole),
    ]
    return sortable_table(columns, rows, "Precision, recall and F1 of every class")


def _calibration(bins: Sequence[Row]) -> Markup:
    known = [row for row in bins if row["count"] and is_number(row["accuracy"]) and is_number(row["confidence"])]
    if not known:
        return element("p", "No predictions to judge.", class_="note")
    return figures(_reliability(known), _confidences(known))


def _reliability(bins: Sequence[Row]) -> Markup:
    plot = new_figure("Confidence", "Accuracy")
    diagonal = {"color": NEUTRAL, "dash": "dash", "width": 1.5}
    plot.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=diagonal, hoverinfo="skip")
    plot.add_scatter(
        x=[row["confidence"] for row in bins],
        y=[row["accuracy"] for row in bins],
        mode="lines+markers",
        line={"color": PALETTE[0], "width": 2},
        marker={"size": 9},
        cliponaxis=False,
        hovertemplate="confidence %{x:.1%}<br>accuracy %{y:.1%}<extra></extra>",
    )
    plot.update_xaxes(range=[0, 1.02], tickformat=".0%")
    plot.update_yaxes(range=[0, 1.02], tickformat=".0%")
    return figure(
        plot, "Reliability", "A calibrated model lies on the dashed line; below it, it is too sure of itself."
    )


def _confidences(bins: Sequence[Row]) -> Markup:
    plot = new_figure("Confidence", "Images")
    plot.add_bar(
        x=[row["confidence"] for row in bins],
        y=[row["count"] for row in bins],
        marker={"color": PALETTE[0]},
        hovertemplate="confidence %{x:.1%}<br>%{y} images<extra></extra>",
    )
    plot.update_xaxes(range=[0, 1.02], tickformat=".0%")
    return figure(plot, "Confidence", "How sure the model was, and of how many images.")


def _attacked(attack: Row) -> list[Markup]:
    """What is left of the accuracy where images are changed to mislead the model."""
    cards = {
        f"Accuracy under {attack['words']}": percent(attack["accuracy"]),
        "Accuracy before": percent(attack["accuracy_before"]),
        "Largest change of a value": f"{255 * attack['epsilon']:.3g}/255",
        "Steps": whole(attack["steps"]),
    }
    columns = [
        Column("Class", "name"),
        Column("Accuracy", "accuracy", percent, best=max),
        Column("Images", "support", whole),
    ]
    note = element(
        "p",
        "Images that the model had right, each changed within its reach along the gradient of its own loss, and "
        "what it takes them for now.",
        class_="note",
    )
    return [
        facts(cards, class_="cards"),
        sortable_table(columns, attack["per_class"], "Accuracy of every class under attack"),
        note,
        _gallery(attack["examples"], "No image could be turned."),
    ]


def _gallery(mistakes: Sequence[Row], none: str = "No mistakes.") -> Markup:
    if not mistakes:
        return element("p", none, class_="note")
    return element("div", *(_mistake(mistake) for mistake in mistakes), class_="gallery")


def _mistake(mistake: Row) -> Markup:
    if not mistake["image"].startswith("data:image/"):
        raise ValueError(f"mistakes: the image of {mistake['path']} must be a data URI (data:image/...)")
    picture = element(
        "img", src=mistake["image"], alt=f"{mistake['truth']} taken for {mistake['prediction']}", loading="lazy"
    )
    answer = element("strong", f"{mistake['prediction']}, {percent(mistake['confidence'])}")
    caption = element("figcaption", answer, f"is {mistake['truth']}", title=mistake["path"])
    return element("figure", picture, caption)
