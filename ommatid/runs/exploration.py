"""The folder of a search for compositions or sub-networks: a comparison's files, and the search's own.

search.db            the Optuna study
results.json         as a comparison has it; results.csv, report.html
compositions/NNN.yaml   a composition of the front, as `--model` and `--models` take it
winner.yaml          the config.yaml of the most accurate within the budget, for `ommatid train --config`
winner/              of sub-networks, which are not trained: a copy of its run folder
runs/NNN             a run folder for each candidate that was trained or judged
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ommatid.runs.comparison import Row
from ommatid.runs.comparison import check_alike as check_comparison
from ommatid.runs.files import write_text
from ommatid.runs.run import read_json


def check_alike(folder: Path, results: Row) -> None:
    """Raises ValueError where the folder holds a search on other data or with other settings, or something else."""
    earlier = folder / "results.json"
    if not earlier.is_file():
        return
    known = read_json(earlier)
    if not isinstance(known, dict) or "budget" not in known.get("settings", {}):
        raise ValueError(f"{earlier} is not of a search: choose another --out")
    check_comparison(folder, known, results)


def write_compositions(folder: Path, front: Mapping[int, dict[str, Any]], winner: Path | None) -> None:
    """Writes a file for each composition of the front and the winner's run; takes away what is in the front no more."""
    files = folder / "compositions"
    files.mkdir(exist_ok=True)
    for number, fields in front.items():
        write_text(files / f"{number:03d}.yaml", yaml.safe_dump({"model": "pyramid", **fields}, sort_keys=False))
    for path in files.glob("*.yaml"):
        if not path.stem.isdecimal() or int(path.stem) not in front:
            path.unlink()
    if winner is not None:
        write_text(folder / "winner.yaml", (winner / "config.yaml").read_text(encoding="utf-8"))


def write_winner(folder: Path, winner: Path) -> None:
    """Copies the winner's run, in place of an earlier winner's."""
    draft = folder / "winner.draft"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(winner, draft)
    shutil.rmtree(folder / "winner", ignore_errors=True)
    draft.replace(folder / "winner")
