"""Where an evaluation finds its model's run, and where it writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ommatid.runs.data_place import data_place
from ommatid.runs.files import write_json, write_text
from ommatid.runs.run import Run
from ommatid.runs.trained import Opened

Samples = TypeVar("Samples")

Row = dict[str, Any]


def own_run(trained: Opened[Any, Any]) -> Run | None:
    """The run that the weights belong to, also where they were named by their file; None where they lie elsewhere."""
    return trained.run or (Run(trained.path.parent) if (trained.path.parent / "config.yaml").is_file() else None)


def judged_on(
    trained: Opened[Any, Any],
    data: str | Path | None,
    embedded: str,
    validation: Callable[[Run], Samples],
    others: Callable[[str | Path], Samples],
) -> tuple[Samples, str]:
    """The samples to judge a model on, and what to call them.

    Its run's own data, and None, stand for their validation part, as `validation` opens it; `others` opens the rest.

    Raises:
        ValueError: no data is named, and the weights lie outside of their run.
    """
    run = own_run(trained)
    if run is not None:
        own = str(run.config["data"])
        if data is None or data_place(data, embedded) == data_place(own, embedded):
            return validation(run), own
    if data is None:
        raise ValueError(f"{trained.path} lies outside of its run folder: name the data to evaluate on")
    return others(data), str(data)


def evaluation_folder(weights: Path, source: str, out: str | Path | None) -> Path:
    """`out`, or `evaluation-DATA` beside the weights."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", Path(source).name).strip("-") or "data"
    return Path(out).expanduser() if out else weights.parent / f"evaluation-{slug}"


SHOWN = 6
"""Pictures on a page at each end."""


def both_ends(order: Sequence[int], show: Callable[[int], Row]) -> dict[str, list[Row]]:
    """The worst and the best pictures of `order`, the worst first: as `show` has them, none of them twice."""
    ends = {"worst": order[:SHOWN], "best": order[SHOWN:][-SHOWN:][::-1]}
    return {end: [show(index) for index in indices] for end, indices in ends.items()}


def saved_evaluation(folder: Path, result: dict[str, Any], page: str, summary: str) -> dict[str, Any]:
    """Writes evaluation.json and report.html; what was written, with the page's path and a line that sums it up."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "evaluation.json", result)
    write_text(folder / "report.html", page)
    return result | {"report": str(folder / "report.html"), "summary": summary}
