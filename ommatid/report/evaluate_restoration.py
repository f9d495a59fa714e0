"""The page of one evaluated restoration network: how near it comes to the originals, and where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ommatid.report.figure import NEUTRAL, PALETTE, figure, new_figure, plot_text
from ommatid.report.formats import whole
from ommatid.report.metric import PSNR, SSIM
from ommatid.report.page import Section, element, facts, page
from ommatid.report.table import Column, sortable_table

Row = Mapping[str, Any]

LISTED = 1000
"""Rows of the table; evaluation.json has them all."""

VIEWS = {"before": "Before", "after": "After", "original": "Original"}


def evaluate_restoration_page(result: Row) -> str:
    """The self-contained HTML page of an evaluation. Raises ValueError where a picture is not a data URI."""
    headline = {
        "PSNR": PSNR.show(result["psnr"]),
        "PSNR before": PSNR.show(result["baseline_psnr"]),
        "SSIM": SSIM.show(result["ssim"]),
        "SSIM before": SSIM.show(result["baseline_ssim"]),
        **_perceptual(result),
        "Pictures": whole(result["samples"]),
    }
    sections = [
        Section("Summary", [facts(headline, class_="cards"), element("p", READING, class_="note")]),
        Section("Restored worst", [_gallery(result["worst"])]),
        *([Section("Restored best", [_gallery(result["best"])])] if result["best"] else []),
        Section("Gain", [_gains(result["pictures"])]),
        Section("Pictures", [_table(result["pictures"])]),
        Section("Machine", [facts(result["machine"])]),
        Section("Settings", [facts(result["settings"])]),
    ]
    undone = result["degrade"] or "pairs"
    return page(f"Evaluation of {result['model']}", f"{result['data']}, {undone}", sections)


def _perceptual(result: Row) -> dict[str, str]:
    """LPIPS, where it was measured."""
    if "lpips" not in result:
        return {}
    return {"LPIPS (less is nearer)": f"{result['lpips']:.4f}", "LPIPS before": f"{result['baseline_lpips']:.4f}"}


READING = (
    "PSNR and SSIM are those of the Y channel, without a border as wide as the scale. Before: the degraded picture "
    "itself, or its bicubic enlargement."
)


def _gallery(rows: Sequence[Row]) -> Markup:
    return element("div", *(_view(row, name) for row in rows for name in VIEWS), class_="gallery triples")


def _view(row: Row, name: str) -> Markup:
    if not row[name].startswith("data:image/"):
        raise ValueError(f"{row['path']}: the picture {name} must be a data URI (data:image/...)")
    picture = element("img", src=row[name], alt=f"{row['path']}, {name}", loading="lazy")
    told = {"before": PSNR.show(row["baseline_psnr"]), "after": PSNR.show(row["psnr"]), "original": row["path"]}
    return element("figure", picture, element("figcaption", element("strong", VIEWS[name]), told[name]))


def _gains(rows: Sequence[Row]) -> Markup:
    ends = [min(row["baseline_psnr"] for row in rows), max(row["baseline_psnr"] for row in rows)]
    plot = new_figure("PSNR before, dB", "PSNR after, dB")
    diagonal = {"color": NEUTRAL, "dash": "dash", "width": 1.5}
    plot.add_scatter(x=ends, y=ends, mode="lines", line=diagonal, hoverinfo="skip")
    plot.add_scatter(
        x=[row["baseline_psnr"] for row in rows],
        y=[row["psnr"] for row in rows],
        mode="markers",
        marker={"size": 9, "color": PALETTE[0]},
        hovertext=[plot_text(row["path"]) for row in rows],
        hovertemplate="%{hovertext}<br>%{x:.2f} dB before, %{y:.2f} dB after<extra></extra>",
    )
    return figure(plot, "PSNR of every picture", "Above the dashed line a picture gained.")


def _table(rows: Sequence[Row]) -> Markup:
    columns = [
        Column("Picture", "path"),
        Column("PSNR", "psnr", PSNR.show, best=max),
        Column("PSNR before", "baseline_psnr", PSNR.show),
        Column("SSIM", "ssim", SSIM.show, best=max),
        Column("SSIM before", "baseline_ssim", SSIM.show),
    ]
    if "lpips" in rows[0]:
        columns += [
            Column("LPIPS", "lpips", "{:.4f}".format),
            Column("LPIPS before", "baseline_lpips", "{:.4f}".format),
        ]
    return sortable_table(columns, rows[:LISTED], "Every picture, before and after")
