"""Pictures as PNG files, drawn without a browser."""

import base64
import io
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ommatid.report.confusion import CLASSES_WITH_NUMBERS, confusion_array, row_shares
from ommatid.report.figure import PALETTE
from ommatid.report.formats import is_number, short_name
from ommatid.report.metric import ACCURACY, Metric

MIN_SIDE = 224
MAX_LABELLED_CLASSES = 100


def curves_png(rows: Sequence[Mapping[str, Any]], path: str | PathLike[str], metric: Metric = ACCURACY) -> None:
    """Loss and metric over the epochs; `rows` is the `curve` of a run. Measurements that are missing leave a gap."""
    drawing = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    losses, judged = drawing.subplots(1, 2)
    _lines(losses, rows, {"train_loss": "training", "val_loss": "validation"})
    _lines(judged, rows, {f"val_{metric.key}": "validation"})
    losses.set(xlabel="epoch", ylabel="loss")
    judged.set(xlabel="epoch", ylabel=metric.word)
    drawing.savefig(path, format="png")


def confusion_png(matrix: Sequence[Sequence[int]], classes: Sequence[str], path: str | PathLike[str]) -> None:
    """The confusion matrix (true class down, predicted class across), coloured by share of the row.

    Raises ValueError where the matrix does not fit the classes.
    """
    counts = confusion_array(matrix, classes)
    shares = row_shares(counts)
    size = len(classes)
    side = min(max(4.0, 0.42 * size), 18.0)
    drawing = Figure(figsize=(side + 1.5, side + 1.5), dpi=120, layout="constrained")
    axes = drawing.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="predicted", ylabel="true")
    if size <= MAX_LABELLED_CLASSES:
        letters = 9 if size <= CLASSES_WITH_NUMBERS else 7
        names = [short_name(name) for name in classes]
        axes.set_xticks(range(size), names, rotation=90 if size > 5 else 0, fontsize=letters, parse_math=False)
        axes.set_yticks(range(size), names, fontsize=letters, parse_math=False)
    if size <= CLASSES_WITH_NUMBERS:
        for (row, column), number in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.55 else "black"
            text = str(number) if number else ""
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    drawing.savefig(path, format="png")


def labelled_png(image: Image.Image, lines: Sequence[str], path: str | PathLike[str]) -> None:
    """The image with the lines written under it; small images are enlarged until the text has room."""
    picture = _enlarged(image.convert("RGB"))
    size = max(14, picture.width // 28)
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
    margin = size // 2
    # An average letter of this font is a little over half as wide as it is high.
    letters = max(8, int((picture.width - 2 * margin) / (0.6 * size)))
    text = "\n".join(part for line in lines for part in wrap(line, letters) or [""])
    box = ImageDraw.Draw(picture).multiline_textbbox((0, 0), text, font=font, spacing=margin)
    canvas = Image.new(
        "RGB", (max(picture.width, int(box[2]) + 2 * margin), picture.height + int(box[3]) + 2 * margin), "white"
    )
    canvas.paste(picture, ((canvas.width - picture.width) // 2, 0))
    ImageDraw.Draw(canvas).multiline_text((margin, picture.height + margin), text, "black", font, spacing=margin)
    canvas.save(path, format="PNG")


def png_uri(image: Image.Image, side: int) -> str:
    """The image as a data URI, made smaller where it is larger than `side` pixels."""
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _lines(axes: Axes, rows: Sequence[Mapping[str, Any]], measures: Mapping[str, str]) -> None:
    for colour, (measure, label) in zip(PALETTE, measures.items(), strict=False):
        values = [row[measure] if is_number(row.get(measure)) else np.nan for row in rows]
        axes.plot([row["epoch"] for row in rows], values, label=label, color=colour, marker="o", markersize=3)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _enlarged(image: Image.Image) -> Image.Image:
    factor = -(-MIN_SIDE // image.width)
    return (
        image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        if factor > 1
        else image.copy()
    )
