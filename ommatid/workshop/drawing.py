"""A picture of a composition: a box for every step, as high as its map and as wide as its channels, parts named."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from ommatid.report.formats import count
from ommatid.report.page import element
from ommatid.workshop.sketch import StageRow

HEIGHT, GAP, WIDEST, NARROWEST = 150, 26, 120, 34


def drawing(rows: Sequence[StageRow]) -> Markup:
    """An SVG of the steps, left to right; of its text a screen reader reads the title alone."""
    boxes, x = [], GAP
    tallest = max(row.shape[0] for row in rows)
    for row in rows:
        width = min(WIDEST, max(NARROWEST, 14 * math.log2(1 + row.shape[2])))
        height = max(10.0, HEIGHT * math.sqrt(row.shape[0] / tallest))
        boxes.append(_box(row, x, width, height))
        x += round(width) + GAP * 3
    told = ", ".join(f"{row.name} {row.parts} {row.shape[0]} x {row.shape[1]} x {row.shape[2]}" for row in rows)
    view = f"0 0 {x} {HEIGHT + 86}"
    return element("svg", element("title", told), *boxes, viewBox=view, width="100%", role="img", class_="architecture")


def _box(row: StageRow, x: float, width: float, height: float) -> Markup:
    top = (HEIGHT - height) / 2 + 6
    shape = " x ".join(map(str, row.shape))
    lines = [row.name, *row.parts.split(" + "), shape, f"{row.blocks} block{'s' if row.blocks > 1 else ''}"]
    middle = x + width / 2
    plates = [
        element("rect", x=x + 5 * plate, y=top - 3 * plate, width=width, height=height, rx=4, class_="plate")
        for plate in reversed(range(min(row.blocks, 4)))
    ]
    labels = [
        element("text", line, x=middle, y=HEIGHT + 22 + 13 * number, text_anchor="middle", class_="label")
        for number, line in enumerate(lines)
    ]
    cost = element("text", count(row.parameters), x=middle, y=top + height / 2 + 4, text_anchor="middle")
    return element("g", *plates, cost, *labels)
