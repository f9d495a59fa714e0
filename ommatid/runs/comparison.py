"""A comparison's folder: what is known so far, written whole after every step, and found again by the same command.

results.json        everything: data, machine, settings, and one row for each model and seed
results.csv         the rows
report.html         the page
runs/MODEL-seedN    one run folder for each row
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ommatid.report.compare import compare_csv, compare_page
from ommatid.report.metric import Metric, Yardstick
from ommatid.runs.files import write_json, write_text
from ommatid.runs.run import read_json

Row = dict[str, Any]

UNMEASURED: Row = {
    "train_seconds": None,
    "curve": [],
    "latency_ms": None,
    "latency_spread_ms": None,
    "throughput": None,
    "memory_mb": None,
    "parameters": None,
    "macs": None,
    "size_mb": None,
}


def new_row(model: str, family: str, seed: int, run: str, metrics: Sequence[Metric]) -> Row:
    first, *others = (metric.key for metric in metrics)
    quality = dict.fromkeys((first, f"{first}_std", *others))
    row = {"model": model, "family": family, "seed": seed, "status": "pending", "run": run, "error": None}
    return {**row, **quality, **UNMEASURED}


def continued(folder: Path, results: Row) -> Row:
    """`results`, a comparison about to start, with what an earlier one in the same folder has found already.

    Finished rows stay, named now or not, so that models and seeds can be added; what failed is tried again.

    Raises:
        ValueError: the folder's runs were trained on other data or with other settings; names the first that differs.
    """
    if not (folder / "results.json").is_file():
        return results
    earlier = read_json(folder / "results.json")
    if not isinstance(earlier, dict) or not {"data", "settings", "runs"} <= set(earlier):
        raise ValueError(f"{folder / 'results.json'} is not of a comparison: choose another --out")
    if (folder / "runs").is_dir():
        check_alike(folder, earlier, results)
    found = {(row["model"], row["seed"]): row for row in earlier["runs"] if row["status"] != "failed"}
    named = [_known(row, found.pop((row["model"], row["seed"]), row)) for row in results["runs"]]
    return results | {"runs": [row for row in found.values() if row["status"] == "done"] + named}


def _known(row: Row, earlier: Row) -> Row:
    """The earlier row, unless it was of other contents of a file of the same name."""
    return earlier if earlier["run"] == row["run"] or not row["run"] else row


def check_alike(folder: Path, earlier: Row, results: Row) -> None:
    """Raises ValueError, naming the first that differs, unless both are of the same data and settings."""
    if earlier["data"]["fingerprint"] != results["data"]["fingerprint"]:
        raise ValueError(
            f"{folder} was started on {earlier['data']['origin']} with other images or classes than "
            f"{results['data']['origin']} has now: choose another --out"
        )
    for name, value in results["settings"].items():
        if earlier["settings"].get(name) != value:
            raise ValueError(
                f"{folder} was started with {name} = {earlier['settings'].get(name)!r}, now it is {value!r}: "
                "say the same to continue it, or choose another --out"
            )


def save(folder: Path, results: Row) -> Path:
    """Writes the three files, each replaced whole, and gives the path of the page."""
    _spread(results["runs"], Yardstick.from_dict(results["yardstick"]).judge.key)
    write_json(folder / "results.json", results)
    write_text(folder / "results.csv", compare_csv(results))
    write_text(folder / "report.html", compare_page(results))
    return folder / "report.html"


def _spread(rows: Sequence[Row], metric: str) -> None:
    """Sets `accuracy_std`, or that of another metric: its deviation over a model's seeds, where it has several."""
    for row in rows:
        seeds = [other[metric] for other in rows if other["model"] == row["model"] and other[metric] is not None]
        row[f"{metric}_std"] = statistics.stdev(seeds) if len(seeds) > 1 else None
