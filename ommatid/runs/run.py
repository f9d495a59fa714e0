"""A run folder: what one training wrote, and how to read it again.

config.yaml         every setting; `ommatid train --config` repeats the run from it
split.json          which image was in which part; the classes where there are any
machine.json        what it ran on, and the versions
metrics.csv         one row per epoch
curves.png          the same, drawn
experts.json        load of the experts by epoch, where the model has any
best.safetensors    the weights of the best epoch; last.safetensors those of the last one
checkpoints/        what resuming needs
result.json         the outcome; there when the training has finished
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml
from torch import nn

from ommatid.models import load
from ommatid.runs.files import write_json, write_text

COLUMNS = (
    "epoch",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "val_top5",
    "val_macro_accuracy",
    "lr",
    "seconds",
    "waited",
)
"""Of a classification's metrics.csv. Epochs count from 1; `lr` is where its schedule stood after it, `seconds` how long
it took, `waited` the seconds in which its steps had no batch to work on."""


@dataclass(frozen=True)
class Run:
    """One training's folder. `Run.open` checks that it is one."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Raises ValueError, in one line, where `path` is not the folder of a training."""
        path = Path(path).expanduser()
        if not path.is_dir():
            raise ValueError(f"no run folder at {path}" if not path.exists() else f"{path} is a file, not a run folder")
        if not (path / "config.yaml").is_file():
            raise ValueError(f"{path} is not a run: it has no config.yaml (name the folder that `ommatid train` wrote)")
        run = cls(path)
        if not isinstance(run.config, dict) or "model" not in run.config:
            raise ValueError(f"{path / 'config.yaml'} is not the configuration of a training")
        return run

    @classmethod
    def create(cls, path: Path, config: dict[str, Any], split: dict[str, Any], machine: dict[str, Any]) -> Self:
        """Writes what is known before training. config.yaml comes last: a folder that has it is whole."""
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_json(path / "split.json", split)
        write_json(path / "machine.json", machine)
        write_text(path / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        return cls(path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every setting of the run."""
        return read_yaml(self.path / "config.yaml")

    @cached_property
    def split(self) -> dict[str, Any]:
        """What the data's `split()` said, the images of each part by name; and their `fingerprint` and `classes`."""
        return read_json(self.path / "split.json")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names that the logits index."""
        return tuple(self.split["classes"])

    @property
    def size(self) -> int:
        """Side of the images or patches that the model was trained on, in pixels."""
        return self.config["size"]

    @property
    def machine(self) -> dict[str, Any]:
        return read_json(self.path / "machine.json")

    @property
    def finished(self) -> bool:
        """Whether the training reached its last epoch."""
        return (self.path / "result.json").is_file()

    @property
    def result(self) -> dict[str, Any]:
        """Outcome of a finished training: best_accuracy, top5 (or its task's metrics), epochs, seconds."""
        return read_json(self.path / "result.json")

    @property
    def checkpoint(self) -> Path:
        """What `train(resume=...)` starts from; absent until the first epoch has ended."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def routing(self) -> Path:
        """How experts were loaded, epoch by epoch; there where the model has experts."""
        return self.path / "experts.json"

    def weights(self, best: bool = True) -> Path:
        """The weights file of the best (or the last) epoch. Raises ValueError where no epoch has ended yet."""
        path = self.path / ("best.safetensors" if best else "last.safetensors")
        if not path.is_file():
            raise ValueError(f"{self.path} has no {path.name} yet: resume it with `ommatid train --resume {self.path}`")
        return path

    def load_model(self, best: bool = True) -> nn.Module:
        """The model with the weights of the best (or the last) epoch, in evaluation mode."""
        return load(self.weights(best))

    def metrics(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, one per epoch; empty before the first epoch has ended."""
        path = self.path / "metrics.csv"
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        return [row | {"epoch": int(row["epoch"])} for row in rows]

    def write_metrics(self, rows: Sequence[dict[str, float]], columns: Sequence[str] = COLUMNS) -> None:
        lines = [",".join(columns), *(",".join(str(row[name]) for name in columns) for row in rows)]
        write_text(self.path / "metrics.csv", "\n".join(lines) + "\n")


def read_yaml(path: Path) -> Any:
    """Raises ValueError, in one line, for a file that is missing or not YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def read_json(path: Path) -> Any:
    """Raises ValueError, in one line, for a file that is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
