"""Where an evaluation finds its model's run, and where it writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ommatid.runs.files import write_json, write_text
from ommatid.runs.run import Run
from ommatid.runs.trained import Opened


def own_run(trained: Opened[Any, Any]) -> Run | None:
    """The run that the weights belong to, also where they were named by their file; None where they lie elsewhere."""
    return trained.run or (Run(trained.path.parent) if (trained.path.parent / "config.yaml").is_file() else None)


def evaluation_folder(weights: Path, source: str, out: str | Path | None) -> Path:
    """`out`, or `evaluation-DATA` beside the weights."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", Path(source).name).strip("-") or "data"
    return Path(out).expanduser() if out else weights.parent / f"evaluation-{slug}"


def saved_evaluation(folder: Path, result: dict[str, Any], page: str, summary: str) -> dict[str, Any]:
    """Writes evaluation.json and report.html; what was written, with the page's path and a line that sums it up."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "evaluation.json", result)
    write_text(folder / "report.html", page)
    return result | {"report": str(folder / "report.html"), "summary": summary}
