"""The page of a reduction: what each setting costs and keeps, what was merged, and which to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ommatid.report.figure import PALETTE, figure, new_figure, plot_text
from ommatid.report.formats import significant, whole
from ommatid.report.metric import Metric
from ommatid.report.page import Section, bullets, code, element, facts, page
from ommatid.report.table import Column, sortable_table

Row = Mapping[str, Any]


def reduce_page(result: Row, metric: Metric) -> str:
    """The self-contained HTML page. `result` is what the workflow gives, judged by the metric."""
    rows = result["settings"]
    table = sortable_table(_columns(metric), rows, f"{metric.title} and cost of each setting")
    sections = [
        Section("Recommended", [element("p", result["recommended"]), code(result["command"])]),
        Section("Settings", [_trade_off(rows, metric), table]),
        *_pictures(result["pictures"]),
        *([Section("Worth knowing", [bullets(result["notes"])])] if result["notes"] else []),
        Section("Machine", [facts(result["machine"])]),
        Section("How it was measured", [facts(result["measured"])]),
    ]
    return page(f"{result['model']} with {result['method']}", result["data"], sections)


def _columns(metric: Metric) -> list[Column]:
    return [
        Column("Setting", "setting"),
        Column(metric.title, metric.key, metric.show, best=max),
        Column("Latency (ms)", "latency_ms", significant, best=min, detail="quartiles"),
        Column("Times as fast", "speedup", significant, best=max),
        Column("Memory (MB)", "memory_mb", significant, best=min),
        Column("Multiply-adds (M)", "macs_m", significant, best=min),
        Column("Weights", "weights"),
    ]


def _trade_off(rows: Sequence[Row], metric: Metric) -> Markup:
    plot = new_figure("Latency, ms", f"{metric.title}, %")
    plot.add_scatter(
        x=[row["latency_ms"] for row in rows],
        y=[100 * row[metric.key] for row in rows],
        text=[plot_text(row["setting"]) for row in rows],
        mode="lines+markers+text",
        textposition="top center",
        marker={"size": 9, "color": PALETTE[0]},
        line={"color": PALETTE[0], "width": 1},
    )
    return figure(plot, f"{metric.title} against latency")


def _pictures(pictures: Sequence[Row]) -> list[Section]:
    if not pictures:
        return []
    note = "Patches that became one token have its mean colour and one outline; black ones were dropped, or left early."
    shown = (_picture(picture) for picture in pictures)
    return [Section("What became of the patches", [element("p", note), element("div", *shown, class_="gallery")])]


def _picture(picture: Row) -> Markup:
    if not picture["image"].startswith("data:image/"):
        raise ValueError("a picture must be a data URI (data:image/...)")
    told = f"{picture['setting']}: {whole(picture['tokens'])} of {whole(picture['patches'])} tokens"
    image = element("img", src=picture["image"], alt=told, loading="lazy")
    return element("figure", image, element("figcaption", told))
