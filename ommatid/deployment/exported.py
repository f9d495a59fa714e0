"""Exported files as trained models: whatever takes a run to use it takes such a file too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.deployment.export import FORMATS
from ommatid.deployment.runtime import Run
from ommatid.models.config import require
from ommatid.runs.trained import CLASSIFICATION, Trained, WeightFacts


class ExportedModel(nn.Module):
    """A file behind the interface of the model that it was made from: (B, 3, H, W), on the CPU, to its answer."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, image: Tensor) -> Tensor:
        return self.run(image.cpu().float())


class PreparingModel(ExportedModel):
    """A file that takes pictures as they come, for callers who have prepared theirs: they get their bytes back."""

    def __init__(self, run: Run, facts: WeightFacts) -> None:
        super().__init__(run)
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (facts.mean, facts.std))

    def forward(self, image: Tensor) -> Tensor:
        levels = (image.cpu().float() * self.std + self.mean) * 255
        return self.run(levels.round().clamp(0, 255).to(torch.uint8))


def is_exported(path: str | Path) -> bool:
    """Whether the name is that of a file `ommatid export` writes."""
    return Path(path).name.endswith(tuple(kind.suffix for kind in FORMATS.values()))


def description_of(path: Path) -> Path:
    """Where the description of an exported file is."""
    return path.with_name(f"{path.name}.json")


def read_description(path: Path) -> dict[str, Any]:
    """What `ommatid export` said about a file. Raises ValueError where it is not there or does not say what it must."""
    place = description_of(path)
    for needed in (path, place):
        if not needed.is_file():
            raise ValueError(f"there is no {needed}: an exported file is used with the description beside it")
    try:
        told = json.loads(place.read_text(encoding="utf-8"))
        require(told["format"] in FORMATS, "format", told["format"], " or ".join(FORMATS))
        return told | {key: told[key] for key in ("task", "model", "input")}
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"{place} is not a description that `ommatid export` wrote") from None


def need(path: Path, told: dict[str, Any], keys: Sequence[str]) -> None:
    """Raises ValueError where a description does not say what using the file takes."""
    missing = next((key for key in keys if key not in told), None)
    if missing is not None:
        raise ValueError(f"{description_of(path)} does not say {missing}: export the run again")


def opened_file(path: Path, told: dict[str, Any]) -> Run:
    """Runs an exported file. Raises ValueError, in one line, where it can't be run here."""
    try:
        return FORMATS[told["format"]].open(path)
    except ValueError:
        raise
    except Exception as problem:  # runtimes have errors of their own, of many lines
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise ValueError(f"{path} cannot be opened as {told['format']}: {reason}") from problem


def open_exported(path: str | Path) -> Trained:
    """Opens an exported classifier. Raises ValueError, in one line, where it is none or can't be run here."""
    path = Path(path).expanduser()
    told = read_description(path)
    if told["task"] != CLASSIFICATION:
        raise ValueError(f"{path} is of a {told['task']}, which tells no classes apart")
    need(path, told, ("classes", "size", "mean", "std"))
    facts = WeightFacts(told["model"], tuple(told["classes"]), told["size"], tuple(told["mean"]), tuple(told["std"]))
    run = opened_file(path, told)
    prepares = told["input"]["type"].startswith("uint8")
    return Trained(PreparingModel(run, facts) if prepares else ExportedModel(run), facts, path, None)
