"""The page of a compressed model: what each setting costs and keeps, and what was removed where."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ommatid.report.figure import NEUTRAL, PALETTE, figure, figures, new_figure, plot_text
from ommatid.report.formats import count, percent, significant
from ommatid.report.page import Section, code, collapsible, element, facts, page
from ommatid.report.table import Column, sortable_table

Row = Mapping[str, Any]


def compress_page(results: Row) -> str:
    """The self-contained HTML page; `results` says model, rows, recommended, advice, machine, settings, command."""
    rows = results["rows"]
    sections = [
        Section("Recommendation", [element("p", results["advice"], class_="advice")]),
        Section("Settings", [_table(rows), _drawn(rows, results["recommended"])]),
        Section("What was removed", [_removed(row) for row in rows if row["removed"]]),
        Section("Machine", [facts(results["machine"])]),
        Section("How", [facts(results["settings"])]),
        Section("Run it again", [code(results["command"])]),
    ]
    return page(f"Compressing {results['model']}", f"{len(rows) - 1} settings against the original", sections)


def _table(rows: Sequence[Row]) -> Markup:
    columns = [
        Column("Setting", "setting"),
        Column("Accuracy", "accuracy", percent, best=max),
        Column("Before fine-tuning", "accuracy_before", percent, best=max),
        Column("Before int8", "accuracy_float", percent, best=max),
        Column("Left in float by int8", "in_float", count),
        Column("Latency (ms)", "latency_ms", significant, best=min),
        Column("Of the original's", "latency_ratio", significant, best=min),
        Column("Memory (MB)", "memory_mb", significant, best=min),
        Column("File (MB)", "size_mb", significant, best=min),
        Column("Non-zero parameters", "parameters", count, best=min),
        Column("MACs", "macs", count, best=min),
        Column("Against the masked original", "error", significant),
        Column("Run", "run"),
        Column("File in 8 bits", "file"),
    ]
    columns = [column for column in columns if any(row.get(column.key) is not None for row in rows)]
    return sortable_table(columns, rows, "The original and every setting, as measured here")


def _drawn(rows: Sequence[Row], recommended: str | None) -> Markup:
    drawn = []
    for key, title in (("latency_ms", "Latency, ms"), ("size_mb", "File, MB"), ("memory_mb", "Memory, MB")):
        shown = [row for row in rows if row[key] is not None]
        plot = new_figure(title, "Accuracy, %")
        plot.add_scatter(
            x=[row[key] for row in shown],
            y=[100 * row["accuracy"] for row in shown],
            text=[plot_text(row["setting"]) for row in shown],
            mode="markers+text",
            textposition="top center",
            marker={
                "size": 11,
                "color": [PALETTE[2] if row["setting"] == recommended else PALETTE[0] for row in shown],
            },
        )
        drawn.append(figure(plot, f"Accuracy against {title.split(',')[0].lower()}"))
    return figures(*drawn)


def _removed(row: Row) -> Markup:
    """Of one setting, layer by layer: a bar for what is kept; heads by number."""
    layers = row["removed"]
    plot = new_figure("Kept, %", "")
    plot.add_bar(
        x=[100 * layer["kept"] / layer["of"] for layer in layers],
        y=[plot_text(layer["layer"].removesuffix(".weight")) for layer in layers],
        orientation="h",
        marker={"color": [_colour(layer["kind"]) for layer in layers]},
    )
    plot.update_yaxes(autorange="reversed")
    plot.update_xaxes(range=[0, 100])
    note = " By kind: " + ", ".join(dict.fromkeys(layer["kind"] for layer in layers)) + "."
    drawing = figure(plot, f"Kept of each layer at {row['setting']}", note, height=120 + 16 * len(layers))
    columns = [
        Column("Layer", "layer"),
        Column("What", "kind"),
        Column("Kept", "kept", count),
        Column("Of", "of", count),
        Column("Heads gone", "gone", lambda gone: ", ".join(map(str, gone)) if gone else ""),
    ]
    return element("div", drawing, collapsible("As numbers", sortable_table(columns, layers, row["setting"])))


def _colour(kind: str) -> str:
    return {"heads": PALETTE[1], "hidden": PALETTE[0], "width": PALETTE[2]}.get(kind, NEUTRAL)
