"""Which model to take, in plain words, from what was measured."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ommatid.report.formats import is_number, significant
from ommatid.report.metric import ACCURACY, CLASSIFIERS, Metric, Yardstick

Row = Mapping[str, Any]

COSTS = (
    "latency_ms",
    "throughput",
    "memory_mb",
    "parameters",
    "macs",
    "train_seconds",
    "size_mb",
)
BUDGETS_MS = tuple(mantissa * 10**power for power in range(-1, 4) for mantissa in (1, 2, 5))


def by_model(runs: Sequence[Row], metric: Metric = ACCURACY) -> list[dict[str, Any]]:
    """One entry per model with a finished, finite metric: each measurement as the mean over its seeds.

    Adds `seeds`, and `accuracy_std` (or that of the metric) from the seeds where the runs do not bring it. Keeps the
    order of the runs.
    """
    groups: dict[str, list[Row]] = {}
    for run in runs:
        if run["status"] == "done" and is_number(run.get(metric.key)):
            groups.setdefault(run["model"], []).append(run)
    return [_mean_run(group, metric) for group in groups.values()]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, quality) points that no other point beats, by rising cost.

    A point is beaten by one that is at least as cheap and as good, and better in one of the two. Equal points stay
    together; points with a missing or non-finite coordinate are left out.
    """
    known = [i for i, point in enumerate(points) if all(is_number(value) for value in point)]
    front: list[int] = []
    for i in sorted(known, key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def recommend(runs: Sequence[Row], yardstick: Yardstick = CLASSIFIERS) -> list[str]:
    """Plain sentences: the best model, the fastest and smallest near it, the best under a time limit.

    runs: the `runs` of a comparison. Models are judged by the mean over their seeds. What did not finish is said last.
    """
    models = by_model(runs, yardstick.judge)
    sentences = _answers(models, yardstick) if models else ["No model has been measured yet."]
    return sentences + _unfinished(runs, yardstick.judge)


def speed(model: Row, yardstick: Yardstick) -> str:
    """How fast a measured model is, in words: 4.21 ms per image, or 0.83 megapixels per second."""
    if yardstick.work == "images":
        return f"{significant(model['latency_ms'])} ms per image"
    return f"{significant(model['throughput'])} {yardstick.work} per second"


def accuracy_margin(accuracy: float, images: int) -> float:
    """Half the width of the 95 % Wilson score interval of an accuracy measured on `images` images (Wilson, 1927)."""
    z = 1.96
    return z / (1 + z**2 / images) * math.sqrt(accuracy * (1 - accuracy) / images + z**2 / (4 * images**2))


def _mean_run(group: Sequence[Row], metric: Metric) -> dict[str, Any]:
    first = group[0]
    entry = {"model": first["model"], "family": first["family"], "seeds": len(group)}
    for measure in (metric.key, *COSTS):
        values = [run[measure] for run in group if is_number(run.get(measure))]
        entry[measure] = statistics.fmean(values) if values else None
    spread = first.get(f"{metric.key}_std")
    if not is_number(spread) and len(group) > 1:
        spread = statistics.stdev(run[metric.key] for run in group)
    return entry | {f"{metric.key}_std": spread if is_number(spread) else None}


def _answers(models: Sequence[Row], yardstick: Yardstick) -> list[str]:
    metric = yardstick.judge
    best = _best(models, metric)
    if len(models) == 1:
        return [f"Only one model was measured: {_describe(best, yardstick)}."]
    near = [model for model in models if model[metric.key] >= best[metric.key] - metric.near - 1e-9]
    level = [model["model"] for model in models if model[metric.key] == best[metric.key] and model is not best]
    roles = [(f"{metric.best} (level with {', '.join(level)})" if level else metric.best, best)]
    for role, measure in (("fastest", "latency_ms"), ("smallest", "size_mb")):
        if any(is_number(model[measure]) for model in near):
            roles.append((f"{role} within {metric.gap(metric.near)} of the best", _least(near, measure, metric)))
    if yardstick.work == "images":
        roles += _within_budgets(models, best, metric)
    return _sentences(roles, yardstick)


def _within_budgets(models: Sequence[Row], best: Row, metric: Metric) -> list[tuple[str, Row]]:
    """The winner under each time limit, named once with the tightest limit, up to where the best model fits."""
    roles: dict[str, tuple[str, Row]] = {}
    for budget in BUDGETS_MS:
        fast = [model for model in models if _cost(model, "latency_ms") < budget]
        if best in fast:
            break
        if fast:
            winner = _best(fast, metric)
            roles.setdefault(winner["model"], (f"best under {budget:g} ms", winner))
    return list(roles.values())


def _sentences(roles: Sequence[tuple[str, Row]], yardstick: Yardstick) -> list[str]:
    """One sentence per model, with everything it is best at."""
    titles: dict[str, list[str]] = {}
    entries = {}
    for role, model in roles:
        titles.setdefault(model["model"], []).append(role)
        entries[model["model"]] = model
    return [f"{_listing(titles[name])}: {_describe(entries[name], yardstick)}." for name in titles]


def _listing(roles: Sequence[str]) -> str:
    text = "; ".join(roles)
    return text[0].upper() + text[1:]


def _describe(model: Row, yardstick: Yardstick) -> str:
    metric = yardstick.judge
    deviation = model[f"{metric.key}_std"]
    spread = f" ({metric.spread(deviation)} over seeds)" if deviation is not None else ""
    text = f"{model['model']}, {metric.show(model[metric.key])}{spread}"
    if is_number(model["latency_ms"]):
        text += f" at {speed(model, yardstick)}"
    if is_number(model["size_mb"]):
        text += f", {significant(model['size_mb'])} MB"
    return text


def _unfinished(runs: Sequence[Row], metric: Metric) -> list[str]:
    failed = [run["model"] for run in runs if run["status"] == "failed"]
    pending = sum(run["status"] == "pending" for run in runs)
    unusable = [run["model"] for run in runs if run["status"] == "done" and not is_number(run.get(metric.key))]
    sentences = []
    if failed:
        sentences.append(f"Failed: {', '.join(dict.fromkeys(failed))} ({len(failed)} of {len(runs)} runs).")
    if unusable:
        sentences.append(f"Finished without a usable {metric.word}: {', '.join(dict.fromkeys(unusable))}.")
    if pending:
        sentences.append(f"Still to run: {pending} of {len(runs)}.")
    return sentences


def _cost(model: Row, measure: str) -> float:
    return model[measure] if is_number(model[measure]) else math.inf


def _best(models: Sequence[Row], metric: Metric) -> Row:
    return min(models, key=lambda model: (-model[metric.key], _cost(model, "latency_ms")))


def _least(models: Sequence[Row], measure: str, metric: Metric) -> Row:
    return min(models, key=lambda model: (_cost(model, measure), -model[metric.key]))
