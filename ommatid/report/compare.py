"""The page and the table of a comparison: which model for these images on this machine."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from ommatid.report.figure import NEUTRAL, PALETTE, colours, figure, figures, legend, new_figure, plot_text
from ommatid.report.formats import count, duration, is_number, percent, plain, short_name, significant
from ommatid.report.page import Section, bullets, code, collapsible, element, facts, page, paragraphs
from ommatid.report.recommend import accuracy_margin, by_model, pareto_front, recommend
from ommatid.report.table import Column, sortable_table

Row = Mapping[str, Any]

CSV_FIELDS = (
    "model",
    "family",
    "seed",
    "status",
    "error",
    "accuracy",
    "accuracy_std",
    "top5",
    "latency_ms",
    "latency_p25_ms",
    "latency_p75_ms",
    "throughput",
    "memory_mb",
    "parameters",
    "macs",
    "train_seconds",
    "size_mb",
    "run",
)
COSTS = {
    "latency_ms": "Latency, ms per image",
    "memory_mb": "Memory, MB",
    "size_mb": "File size, MB",
    "parameters": "Parameters",
}


def compare_page(results: Row) -> str:
    """The self-contained HTML page of a comparison; `results` is the content of its results.json."""
    runs = results["runs"]
    data = results["data"]
    classes = f"{len(data['classes'])} classes, {data['train']} training and {data['val']} validation images"
    sections = [
        Section("Recommendation", [paragraphs(recommend(runs), class_="advice"), _certainty(runs, data["val"])]),
        Section("Results", [_table(runs), _failures(runs)]),
        *_figure_sections(runs),
        Section("Data", [_data(data)]),
        Section("Machine", [facts(results["machine"])]),
        Section("Settings", [facts(results["settings"])]),
        Section("Run it again", [code(results["command"])]),
    ]
    return page(results["title"], f"{data['origin']}: {classes}", sections)


def compare_csv(results: Row) -> str:
    """One row per run, without the learning curves; what was not measured is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_with_quartiles(run) for run in results["runs"])
    return text.getvalue()


def _with_quartiles(run: Row) -> dict[str, Any]:
    low, high = run.get("latency_spread_ms") or (None, None)
    return dict(run) | {"latency_p25_ms": low, "latency_p75_ms": high}


def _certainty(runs: Sequence[Row], images: int) -> Markup | None:
    models = by_model(runs)
    if not models or not images:
        return None
    best = max(model["accuracy"] for model in models)
    margin = 100 * accuracy_margin(best, images)
    text = (
        f"Measured on {images} validation images, {percent(best)} is known to about ± {margin:.1f} points "
        "(95 % interval). Treat models closer than that as level."
    )
    return element("p", text, class_="note")


def _table(runs: Sequence[Row]) -> Markup:
    columns = [
        Column("Model", "model", detail="note"),
        Column("Accuracy", "accuracy", percent, best=max, detail="deviation"),
        Column("Top 5", "top5", percent, best=max),
        Column("Latency (ms)", "latency_ms", significant, best=min, detail="quartiles"),
        Column("Images per second", "throughput", significant, best=max),
        Column("Memory (MB)", "memory_mb", significant, best=min),
        Column("Size (MB)", "size_mb", significant, best=min),
        Column("Parameters", "parameters", count, best=min),
        Column("MACs", "macs", count, best=min),
        Column("Training", "train_seconds", duration, best=min),
        Column("Family", "family"),
        Column("Run", "run", _run_link),
    ]
    if len({run["seed"] for run in runs}) > 1:
        columns.insert(1, Column("Seed", "seed"))
    return sortable_table(columns, [_with_details(run) for run in runs], "Every run and what it measured")


def _with_details(run: Row) -> dict[str, Any]:
    deviation, spread = run.get("accuracy_std"), run.get("latency_spread_ms")
    status = element("span", run["status"], class_="bad" if run["status"] == "failed" else None)
    return dict(run) | {
        "note": status if run["status"] != "done" else None,
        "deviation": f"± {percent(deviation)}" if is_number(deviation) else None,
        "quartiles": "–".join(significant(value) for value in spread) if spread else None,
    }


def _run_link(path: str | None) -> object:
    # Quoting also turns the colon of a scheme into plain characters, so that a link can only be a file beside the page.
    return element("a", "files", href=quote(path)) if path else plain(None)


def _failures(runs: Sequence[Row]) -> Markup | None:
    failed = [run for run in runs if run["status"] == "failed"]
    if not failed:
        return None
    parts = (
        Markup("").join(
            (element("h3", f"{run['model']}, seed {run['seed']}, failed"), code(run.get("error") or "no message"))
        )
        for run in failed
    )
    return element("div", *parts)


def _figure_sections(runs: Sequence[Row]) -> list[Section]:
    models = by_model(runs)
    trained = [run for run in runs if run.get("curve")]
    named = {run["model"]: run["family"] for run in (*models, *trained)}
    by_name = colours(list(named))
    # Past the palette, a colour stands for a family and the names are found by pointing at the figure.
    key = by_name if len(named) <= len(PALETTE) else colours(list(named.values()))
    shade = {model: key.get(model) or key[family] for model, family in named.items()}
    sections = []
    if models:
        plots = [_trade_off(models, measure, title, shade) for measure, title in COSTS.items()]
        note = (
            "The grey line is the Pareto front: every model below it is beaten by one that is cheaper or more accurate."
        )
        sections.append(
            Section("Accuracy against cost", [legend(key), figures(*plots), element("p", note, class_="note")])
        )
    if trained:
        plots = [
            _curves(trained, "val_accuracy", "Validation accuracy", shade),
            _curves(trained, "val_loss", "Validation loss", shade),
            _curves(trained, "train_loss", "Training loss", shade),
        ]
        sections.append(Section("Learning curves", [legend(key), figures(*plots)]))
    return sections


def _trade_off(models: Sequence[Row], measure: str, title: str, shade: Mapping[str, str]) -> Markup | None:
    known = [model for model in models if is_number(model[measure])]
    if not known:
        return None
    costs = [model[measure] for model in known]
    accuracies = [model["accuracy"] for model in known]
    deviations = [model["accuracy_std"] or 0.0 for model in known]
    front = pareto_front(list(zip(costs, accuracies, strict=True)))
    axis = _cost_axis(costs)
    plot = new_figure(title, "Accuracy")
    plot.add_scatter(
        x=[costs[i] for i in front],
        y=[accuracies[i] for i in front],
        mode="lines",
        line={"color": NEUTRAL, "width": 1.5, "shape": "hv"},
        hoverinfo="skip",
    )
    plot.add_scatter(
        x=costs,
        y=accuracies,
        mode="markers+text",
        text=[plot_text(short_name(model["model"])) if i in front else "" for i, model in enumerate(known)],
        textposition=_sides(costs, axis),
        cliponaxis=False,
        hovertext=[plot_text(model["model"]) for model in known],
        hovertemplate="%{hovertext}<br>%{y:.1%}, %{x:.3s}<extra></extra>",
        error_y={
            "array": deviations,
            "thickness": 1,
            "width": 3,
            "color": NEUTRAL,
        },
        marker={"size": 11, "color": [shade[model["model"]] for model in known], "opacity": 0.9},
    )
    plot.update_xaxes(**axis)
    plot.update_yaxes(tickformat=".1%", range=_accuracy_range(accuracies, deviations))
    return figure(plot, f"Accuracy against {title.split(',')[0].lower()}")


def _cost_axis(costs: Sequence[float]) -> dict[str, Any]:
    low, high = min(costs), max(costs)
    if low <= 0 or high <= 10 * low:
        return {"type": "linear", "range": _padded(low, high, below=0.1, above=0.1), "tickformat": "~s", "nticks": 6}
    ends = _padded(math.log10(low), math.log10(high), below=0.1, above=0.1)
    steps = [digit * 10.0**power for power in range(math.floor(ends[0]), math.ceil(ends[1])) for digit in (1, 2, 5)]
    return {"type": "log", "range": ends, "tickvals": steps, "ticktext": [count(step) for step in steps]}


def _accuracy_range(accuracies: Sequence[float], deviations: Sequence[float]) -> list[float]:
    """The range that holds every point with its deviation; single points get two percentage points around them."""
    low = min(value - spread for value, spread in zip(accuracies, deviations, strict=True))
    high = max(value + spread for value, spread in zip(accuracies, deviations, strict=True))
    padded = _padded(min(low, high - 0.02), high, below=0.12, above=0.16)
    return [padded[0], min(padded[1], 1.0)]


def _sides(costs: Sequence[float], axis: Row) -> list[str]:
    """Where each name goes: inside the figure, and on the side of its point that the Pareto line never crosses."""
    middle = sum(axis["range"]) / 2
    places = [math.log10(cost) if axis["type"] == "log" else cost for cost in costs]
    return ["bottom right" if place < middle else "top left" for place in places]


def _padded(low: float, high: float, below: float, above: float) -> list[float]:
    """The range with room around it for names, as shares of its width."""
    width = (high - low) or abs(high) or 1.0
    return [low - below * width, high + above * width]


def _curves(runs: Sequence[Row], measure: str, title: str, shade: Mapping[str, str]) -> Markup:
    plot = new_figure("Epoch", title)
    for run in runs:
        plot.add_scatter(
            x=[row["epoch"] for row in run["curve"]],
            y=[row.get(measure) for row in run["curve"]],
            mode="lines+markers" if len(run["curve"]) < 15 else "lines",
            line={"color": shade[run["model"]], "width": 2},
            marker={"size": 5},
            name=plot_text(f"{run['model']}, seed {run['seed']}"),
            hovertemplate="%{fullData.name}<br>epoch %{x}: %{y:.4~g}<extra></extra>",
        )
    plot.update_xaxes(tickformat="d")
    if measure == "val_accuracy":
        plot.update_yaxes(tickformat=".0%")
    return figure(plot, title)


def _data(data: Row) -> Markup:
    values = {"Origin": data["origin"], "Training images": data["train"], "Validation images": data["val"]}
    skipped = data["skipped"]
    parts = [facts(values), collapsible(f"Classes: {len(data['classes'])}", bullets(data["classes"]))]
    if skipped:
        lines = [f"{file['path']}: {file['reason']}" for file in skipped]
        parts.append(collapsible(f"Files skipped: {len(skipped)}", bullets(lines)))
    return element("div", *parts)
