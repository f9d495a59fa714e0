"""Which model to take, in plain words, from what was measured."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ommatid.report.formats import is_number, percent, significant

Row = Mapping[str, Any]

MEASURES = (
    "accuracy",
    "top5",
    "latency_ms",
    "throughput",
    "memory_mb",
    "parameters",
    "macs",
    "train_seconds",
    "size_mb",
)
BUDGETS_MS = tuple(mantissa * 10**power for power in range(-1, 4) for mantissa in (1, 2, 5))
POINT = 0.01


def by_model(runs: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry per model with a finished, finite accuracy: each measurement as the mean over its seeds.

    Adds `seeds`, and `accuracy_std` from the seeds where the runs do not bring it. Keeps the order of the runs.
    """
    groups: dict[str, list[Row]] = {}
    for run in runs:
        if run["status"] == "done" and is_number(run.get("accuracy")):
            groups.setdefault(run["model"], []).append(run)
    return [_mean_run(group) for group in groups.values()]


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


def recommend(runs: Sequence[Row]) -> list[str]:
    """Plain sentences: the most accurate model, the fastest and smallest near it, the best under a time limit.

    runs: the `runs` of a comparison. Models are judged by the mean over their seeds. What did not finish is said last.
    """
    models = by_model(runs)
    sentences = _answers(models) if models else ["No model has been measured yet."]
    return sentences + _unfinished(runs)


def accuracy_margin(accuracy: float, images: int) -> float:
    """Half the width of the 95 % Wilson score interval of an accuracy measured on `images` images (Wilson, 1927)."""
    z = 1.96
    return z / (1 + z**2 / images) * math.sqrt(accuracy * (1 - accuracy) / images + z**2 / (4 * images**2))


def _mean_run(group: Sequence[Row]) -> dict[str, Any]:
    first = group[0]
    entry = {"model": first["model"], "family": first["family"], "seeds": len(group)}
    for measure in MEASURES:
        values = [run[measure] for run in group if is_number(run.get(measure))]
        entry[measure] = statistics.fmean(values) if values else None
    spread = first.get("accuracy_std")
    if not is_number(spread) and len(group) > 1:
        spread = statistics.stdev(run["accuracy"] for run in group)
    return entry | {"accuracy_std": spread if is_number(spread) else None}


def _answers(models: Sequence[Row]) -> list[str]:
    best = _most_accurate(models)
    if len(models) == 1:
        return [f"Only one model was measured: {_describe(best)}."]
    near = [model for model in models if model["accuracy"] >= best["accuracy"] - POINT - 1e-9]
    level = [model["model"] for model in models if model["accuracy"] == best["accuracy"] and model is not best]
    roles = [(f"most accurate (level with {', '.join(level)})" if level else "most accurate", best)]
    for role, measure in (("fastest", "latency_ms"), ("smallest", "size_mb")):
        if any(is_number(model[measure]) for model in near):
            roles.append((f"{role} within 1 point of the best", _least(near, measure)))
    roles += _within_budgets(models, best)
    return _sentences(roles)


def _within_budgets(models: Sequence[Row], best: Row) -> list[tuple[str, Row]]:
    """The winner under each time limit, named once with the tightest limit, up to where the best model fits."""
    roles: dict[str, tuple[str, Row]] = {}
    for budget in BUDGETS_MS:
        fast = [model for model in models if _cost(model, "latency_ms") < budget]
        if best in fast:
            break
        if fast:
            winner = _most_accurate(fast)
            roles.setdefault(winner["model"], (f"best under {budget:g} ms", winner))
    return list(roles.values())


def _sentences(roles: Sequence[tuple[str, Row]]) -> list[str]:
    """One sentence per model, with everything it is best at."""
    titles: dict[str, list[str]] = {}
    entries = {}
    for role, model in roles:
        titles.setdefault(model["model"], []).append(role)
        entries[model["model"]] = model
    return [f"{_listing(titles[name])}: {_describe(entries[name])}." for name in titles]


def _listing(roles: Sequence[str]) -> str:
    text = "; ".join(roles)
    return text[0].upper() + text[1:]


def _describe(model: Row) -> str:
    spread = f" (± {100 * model['accuracy_std']:.1f} over seeds)" if model["accuracy_std"] is not None else ""
    text = f"{model['model']}, {percent(model['accuracy'])}{spread}"
    if is_number(model["latency_ms"]):
        text += f" at {significant(model['latency_ms'])} ms per image"
    if is_number(model["size_mb"]):
        text += f", {significant(model['size_mb'])} MB"
    return text


def _unfinished(runs: Sequence[Row]) -> list[str]:
    failed = [run["model"] for run in runs if run["status"] == "failed"]
    pending = sum(run["status"] == "pending" for run in runs)
    unusable = [run["model"] for run in runs if run["status"] == "done" and not is_number(run.get("accuracy"))]
    sentences = []
    if failed:
        sentences.append(f"Failed: {', '.join(dict.fromkeys(failed))} ({len(failed)} of {len(runs)} runs).")
    if unusable:
        sentences.append(f"Finished without a usable accuracy: {', '.join(dict.fromkeys(unusable))}.")
    if pending:
        sentences.append(f"Still to run: {pending} of {len(runs)}.")
    return sentences


def _cost(model: Row, measure: str) -> float:
    return model[measure] if is_number(model[measure]) else math.inf


def _most_accurate(models: Sequence[Row]) -> Row:
    return min(models, key=lambda model: (-model["accuracy"], _cost(model, "latency_ms")))


def _least(models: Sequence[Row], measure: str) -> Row:
    return min(models, key=lambda model: (_cost(model, measure), -model["accuracy"]))
