"""Measured speed as a table for the terminal and as a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from ommatid.report.figure import NEUTRAL, PALETTE, figure, new_figure, plot_text
from ommatid.report.formats import count, is_number, significant
from ommatid.report.page import Section, element, facts, page
from ommatid.report.table import Column, is_numeric, sortable_table

Row = Mapping[str, Any]

SETTINGS = ("batch", "threads", "precision")


def bench_table(rows: Sequence[Row]) -> Table:
    """The rows as a rich table; the columns of the competitor only where one was measured."""
    columns, flat = _columns(rows), [_flat(row) for row in rows]
    table = Table(title="Speed on this machine", caption=_shared(rows))
    for column in columns:
        table.add_column(column.title, overflow="fold", justify="right" if is_numeric(column, flat) else "left")
    for row in flat:
        table.add_row(*(_terminal_cell(column, row) for column in columns))
    return table


def bench_page(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """The self-contained HTML page of a benchmark.

    `ratio` of a row's `against` is the competitor's latency divided by the model's: above 1 the model is faster.
    """
    sections = [
        Section(
            "Results",
            [sortable_table(_columns(rows), [_flat(row) for row in rows], "Speed of every model"), _reading(rows)],
        ),
        Section("Latency", [_figure(rows)]),
        Section("Machine", [facts(machine)]),
    ]
    return page("Benchmark", ", ".join(filter(None, [f"{len(rows)} measurements", _shared(rows)])), sections)


def _terminal_cell(column: Column, row: Row) -> Text:
    detail = row.get(column.detail) if column.detail else None
    return Text("\n".join(str(line) for line in (column.show(row.get(column.key)), detail) if line is not None))


def _columns(rows: Sequence[Row]) -> list[Column]:
    columns = [
        Column("Model", "model"),
        Column("Latency (ms)", "latency_ms", significant, best=min, detail="quartiles"),
        Column("Images per second", "throughput", significant, best=max),
        Column("Memory (MB)", "memory_mb", significant, best=min),
        Column("Parameters", "parameters", count, best=min),
        Column("MACs", "macs", count, best=min),
        *(Column(setting.capitalize(), setting) for setting in _varied(rows)),
    ]
    if any(row.get("megapixels") for row in rows):
        columns.insert(3, Column("Megapixels per second", "megapixels", significant, best=max))
    if any(row["against"] for row in rows):
        columns[2:2] = [
            Column("Against", "against_name"),
            Column("Its latency (ms)", "against_latency_ms", significant),
            Column("Ratio", "ratio", significant, best=max, detail="ratio_quartiles"),
        ]
    return columns


def _varied(rows: Sequence[Row]) -> list[str]:
    return [setting for setting in SETTINGS if len({row[setting] for row in rows}) > 1]


def _shared(rows: Sequence[Row]) -> str:
    """The settings that are the same in every row: 'batch 1, threads 4, precision float32'."""
    varied = _varied(rows)
    return ", ".join(f"{setting} {rows[0][setting]}" for setting in SETTINGS if rows and setting not in varied)


def _flat(row: Row) -> dict[str, Any]:
    flat = dict(row) | {"quartiles": _span(row.get("latency_p25"), row.get("latency_p75"))}
    against = row["against"]
    if against:
        flat |= {
            "against_name": against["name"],
            "against_latency_ms": against["latency_ms"],
            "ratio": against["ratio"],
            "ratio_quartiles": _span(against["ratio_p25"], against["ratio_p75"]),
        }
    return flat


def _span(low: Any, high: Any) -> str | None:
    return f"{significant(low)}–{significant(high)}" if is_number(low) and is_number(high) else None


def _reading(rows: Sequence[Row]) -> Markup | None:
    if not any(row["against"] for row in rows):
        return None
    return element(
        "p", "Ratio is the other's latency divided by the model's: above 1 the model is faster.", class_="note"
    )


def _figure(rows: Sequence[Row]) -> Markup:
    names = [plot_text(", ".join([row["model"], *(f"{key} {row[key]}" for key in _varied(rows))])) for row in rows]
    plot = new_figure("Latency, ms", "")
    plot.add_scatter(
        x=[row["latency_ms"] for row in rows],
        y=list(range(len(rows))),
        error_x={
            "array": [_distance(row.get("latency_p75"), row["latency_ms"]) for row in rows],
            "arrayminus": [_distance(row["latency_ms"], row.get("latency_p25")) for row in rows],
            "symmetric": False,
            "thickness": 1.5,
        },
        mode="markers",
        marker={"size": 10, "color": PALETTE[0]},
        name="this library",
        hovertext=names,
        hovertemplate="%{hovertext}<br>%{x:.3g} ms<extra></extra>",
    )
    pairs = [(index, row["against"]) for index, row in enumerate(rows) if row["against"]]
    if pairs:
        plot.add_scatter(
            x=[against["latency_ms"] for _, against in pairs],
            y=[index for index, _ in pairs],
            mode="markers",
            marker={"size": 10, "color": NEUTRAL, "symbol": "diamond-open", "line": {"width": 2}},
            name=plot_text(", ".join(dict.fromkeys(against["name"] for _, against in pairs))),
            hovertext=[plot_text(against["name"]) for _, against in pairs],
            hovertemplate="%{hovertext}<br>%{x:.3g} ms<extra></extra>",
        )
        plot.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    plot.update_xaxes(rangemode="tozero")
    plot.update_yaxes(tickvals=list(range(len(rows))), ticktext=names, range=[len(rows) - 0.5, -0.5])
    return figure(plot, "Median latency", "Bars span the middle half of the measurements.", height=110 + 34 * len(rows))


def _distance(high: Any, low: Any) -> float:
    return max(0.0, high - low) if is_number(high) and is_number(low) else 0.0
