"""The page and the table of a comparison: which model for these images on this machine."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from ommatid.report.figure import NEUTRAL, PALETTE, colours, figure, figures, legend, new_figure, plot_text
from ommatid.report.formats import count, duration, is_number, plain, short_name, significant
from ommatid.report.metric import CLASSIFIERS, Metric, Yardstick
from ommatid.report.page import Section, bullets, code, collapsible, element, facts, page, paragraphs
from ommatid.report.recommend import accuracy_margin, by_model, pareto_front, recommend
from ommatid.report.table import Column, sortable_table

Row = Mapping[str, Any]

CSV_FIELDS = (
    *("model", "family", "seed", "status", "error"),
    *("latency_ms", "latency_p25_ms", "latency_p75_ms", "throughput", "memory_mb", "parameters", "macs"),
    *("train_seconds", "size_mb", "run"),
)
QUALITY_AT = CSV_FIELDS.index("latency_ms")
"""Where the metrics stand among them."""


@dataclass(frozen=True)
class Cost:
    """What quality is drawn against: an entry of a row, and the title of its axis."""

    key: str
    title: str
    more_is_better: bool = False


LATENCY = Cost("latency_ms", "Latency, ms per image")
OTHER_COSTS = (
    Cost("memory_mb", "Memory, MB"),
    Cost("size_mb", "File size, MB"),
    Cost("parameters", "Parameters"),
)


def compare_page(results: Row) -> str:
    """The self-contained HTML page of a comparison; `results` is the content of its results.json."""
    runs, data, yardstick = results["runs"], results["data"], _yardstick(results)
    advice = paragraphs(recommend(runs, yardstick), class_="advice")
    sections = [
        Section(
            "Recommendation",
            [
                advice,
                paragraphs(results.get("notes", ()), class_="note"),
                _certainty(runs, data["val"], yardstick.judge),
            ],
        ),
        Section("Results", [_table(runs, yardstick), _failures(runs)]),
        *_figure_sections(runs, yardstick),
        Section("Data", [_data(data)]),
        Section("Machine", [facts(results["machine"])]),
        Section("Settings", [facts(results["settings"])]),
        Section("Run it again", [code(results["command"])]),
    ]
    return page(results["title"], f"{data['origin']}: {_in_short(data)}", sections)


def compare_csv(results: Row) -> str:
    """One row per run, without the learning curves; what was not measured is an empty cell."""
    first, *others = (metric.key for metric in _yardstick(results).metrics)
    names = (*CSV_FIELDS[:QUALITY_AT], first, f"{first}_std", *others, *CSV_FIELDS[QUALITY_AT:])
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_with_quartiles(run) for run in results["runs"])
    return text.getvalue()


def _yardstick(results: Row) -> Yardstick:
    return Yardstick.from_dict(results["yardstick"]) if "yardstick" in results else CLASSIFIERS


def _in_short(data: Row) -> str:
    what = f"{len(data['classes'])} classes" if "classes" in data else data["degrade"] or "pairs"
    return f"{what}, {data['train']} training and {data['val']} validation images"


def _with_quartiles(run: Row) -> dict[str, Any]:
    low, high = run.get("latency_spread_ms") or (None, None)
    return dict(run) | {"latency_p25_ms": low, "latency_p75_ms": high}


def _certainty(runs: Sequence[Row], images: int, metric: Metric) -> Markup | None:
    models = by_model(runs, metric)
    if not models or not images or not metric.counted:
        return None
    best = max(model[metric.key] for model in models)
    margin = 100 * accuracy_margin(best, images)
    text = (
        f"Measured on {images} validation images, {metric.show(best)} is known to about ± {margin:.1f} points "
        "(95 % interval). Treat models closer than that as level."
    )
    return element("p", text, class_="note")


def _table(runs: Sequence[Row], yardstick: Yardstick) -> Markup:
    judge, *others = yardstick.metrics
    columns = [
        Column("Model", "model", detail="note"),
        Column(judge.title, judge.key, judge.show, best=max, detail="deviation"),
        *(Column(metric.title, metric.key, metric.show, best=max) for metric in others),
        Column("Latency (ms)", "latency_ms", significant, best=min, detail="quartiles"),
        Column(f"{yardstick.work.capitalize()} per second", "throughput", significant, best=max),
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
    return sortable_table(columns, [_with_details(run, judge) for run in runs], "Every run and what it measured")


def _with_details(run: Row, metric: Metric) -> dict[str, Any]:
    deviation, spread = run.get(f"{metric.key}_std"), run.get("latency_spread_ms")
    status = element("span", run["status"], class_="bad" if run["status"] == "failed" else None)
    return dict(run) | {
        "note": status if run["status"] != "done" else None,
        "deviation": f"± {metric.show(deviation)}" if is_number(deviation) else None,
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


def _figure_sections(runs: Sequence[Row], yardstick: Yardstick) -> list[Section]:
    metric = yardstick.judge
    models = by_model(runs, metric)
    trained = [run for run in runs if run.get("curve")]
    named = {run["model"]: run["family"] for run in (*models, *trained)}
    by_name = colours(list(named))
    # Past the palette, a colour stands for a family and the names are found by pointing at the figure.
    key = by_name if len(named) <= len(PALETTE) else colours(list(named.values()))
    shade = {model: key.get(model) or key[family] for model, family in named.items()}
    sections = []
    if models:
        plots = [_trade_off(models, cost, metric, shade) for cost in (_speed(yardstick), *OTHER_COSTS)]
        note = (
            "The grey line is the Pareto front: every model below it is beaten by one that is cheaper or "
            f"{metric.better}."
        )
        parts = [legend(key), figures(*plots), element("p", note, class_="note")]
        sections.append(Section(f"{metric.title} against cost", parts))
    if trained:
        plots = [
            _curves(trained, f"val_{metric.key}", f"Validation {metric.word}", shade, ".0%" if metric.is_share else ""),
            _curves(trained, "val_loss", "Validation loss", shade),
            _curves(trained, "train_loss", "Training loss", shade),
        ]
        sections.append(Section("Learning curves", [legend(key), figures(*plots)]))
    return sections


def _speed(yardstick: Yardstick) -> Cost:
    """The time that an image takes; where images differ in size, what is done in a second instead."""
    if yardstick.work == "images":
        return LATENCY
    return Cost("throughput", f"{yardstick.work.capitalize()} per second", more_is_better=True)


def _trade_off(models: Sequence[Row], cost: Cost, metric: Metric, shade: Mapping[str, str]) -> Markup | None:
    known = [model for model in models if is_number(model[cost.key])]
    if not known:
        return None
    costs = [model[cost.key] for model in known]
    qualities = [model[metric.key] for model in known]
    deviations = [model[f"{metric.key}_std"] or 0.0 for model in known]
    burdens = [-value for value in costs] if cost.more_is_better else costs
    front = pareto_front(list(zip(burdens, qualities, strict=True)))
    axis = _cost_axis(costs)
    plot = new_figure(cost.title, metric.axis)
    plot.add_scatter(
        x=[costs[i] for i in front],
        y=[qualities[i] for i in front],
        mode="lines",
        line={"color": NEUTRAL, "width": 1.5, "shape": "hv"},
        hoverinfo="skip",
    )
    plot.add_scatter(
        x=costs,
        y=qualities,
        mode="markers+text",
        text=[plot_text(short_name(model["model"])) if i in front else "" for i, model in enumerate(known)],
        textposition=_sides(costs, axis, cost.more_is_better),
        cliponaxis=False,
        hovertext=[plot_text(model["model"]) for model in known],
        hovertemplate="%{hovertext}<br>%{y:" + (".1%" if metric.is_share else ".2f") + "}, %{x:.3s}<extra></extra>",
        error_y={
            "array": deviations,
            "thickness": 1,
            "width": 3,
            "color": NEUTRAL,
        },
        marker={"size": 11, "color": [shade[model["model"]] for model in known], "opacity": 0.9},
    )
    plot.update_xaxes(**axis)
    plot.update_yaxes(
        tickformat=".1%" if metric.is_share else ".2f", range=_quality_range(qualities, deviations, metric)
    )
    return figure(plot, f"{metric.title} against {cost.title.split(',')[0].lower()}")


def _cost_axis(costs: Sequence[float]) -> dict[str, Any]:
    low, high = min(costs), max(costs)
    if low <= 0 or high <= 10 * low:
        return {"type": "linear", "range": _padded(low, high, below=0.1, above=0.1), "tickformat": "~s", "nticks": 6}
    ends = _padded(math.log10(low), math.log10(high), below=0.1, above=0.1)
    steps = [digit * 10.0**power for power in range(math.floor(ends[0]), math.ceil(ends[1])) for digit in (1, 2, 5)]
    return {"type": "log", "range": ends, "tickvals": steps, "ticktext": [count(step) for step in steps]}


def _quality_range(values: Sequence[float], deviations: Sequence[float], metric: Metric) -> list[float]:
    """The range that holds every point with its deviation; a single point gets room for two steps of "near"."""
    low = min(value - spread for value, spread in zip(values, deviations, strict=True))
    high = max(value + spread for value, spread in zip(values, deviations, strict=True))
    padded = _padded(min(low, high - 2 * metric.near), high, below=0.12, above=0.16)
    return [padded[0], min(padded[1], 1.0) if metric.is_share else padded[1]]


def _sides(costs: Sequence[float], axis: Row, more_is_better: bool) -> list[str]:
    """Where each name goes: inside the figure, and on the side of its point that the Pareto line never crosses."""
    middle = sum(axis["range"]) / 2
    places = [math.log10(cost) if axis["type"] == "log" else cost for cost in costs]
    left, right = ("top right", "bottom left") if more_is_better else ("bottom right", "top left")
    return [left if place < middle else right for place in places]


def _padded(low: float, high: float, below: float, above: float) -> list[float]:
    """The range with room around it for names, as shares of its width."""
    width = (high - low) or abs(high) or 1.0
    return [low - below * width, high + above * width]


def _curves(runs: Sequence[Row], measure: str, title: str, shade: Mapping[str, str], ticks: str = "") -> Markup:
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
    plot.update_yaxes(tickformat=ticks)
    return figure(plot, title)


def _data(data: Row) -> Markup:
    values = {"Origin": data["origin"], "Training images": data["train"], "Validation images": data["val"]}
    skipped = data["skipped"]
    parts = [facts(values)]
    if "classes" in data:
        parts.append(collapsible(f"Classes: {len(data['classes'])}", bullets(data["classes"])))
    else:
        parts.append(facts({"Degradation": data["degrade"] or "pairs"}))
    if skipped:
        lines = [f"{file['path']}: {file['reason']}" for file in skipped]
        parts.append(collapsible(f"Files skipped: {len(skipped)}", bullets(lines)))
    return element("div", *parts)
