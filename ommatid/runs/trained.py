"""A trained model with what it takes to use it: its classes and its image size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import nn

from ommatid.models import load
from ommatid.models.registry import find_classifier
from ommatid.models.weights import read_header
from ommatid.runs.run import Run


@dataclass(frozen=True)
class WeightFacts:
    """What the header of our weights files says beside the architecture.

    name: the model that was trained. size: side of its images, in pixels. mean, std: their normalisation, per channel.
    """

    name: str
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_header(self) -> dict[str, str]:
        return {
            "name": self.name,
            "classes": json.dumps(self.classes, ensure_ascii=False),
            "image_size": str(self.size),
            "normalisation": json.dumps({"mean": self.mean, "std": self.std}),
        }

    @classmethod
    def from_header(cls, header: dict[str, str]) -> Self:
        normalisation = json.loads(header["normalisation"])
        return cls(
            name=header["name"],
            classes=tuple(json.loads(header["classes"])),
            size=int(header["image_size"]),
            mean=tuple(normalisation["mean"]),
            std=tuple(normalisation["std"]),
        )


@dataclass(frozen=True)
class Trained:
    """`model`, in evaluation mode, loaded from `path`; `run` is the folder it belongs to, if it was found by it."""

    model: nn.Module
    facts: WeightFacts
    path: Path
    run: Run | None


def open_trained(run_or_weights: str | Path) -> Trained:
    """Opens a run folder (its best weights) or a .safetensors file that a training wrote.

    Raises ValueError, in one line, where it is neither.
    """
    path = Path(run_or_weights).expanduser()
    run = None if path.is_file() else Run.open(path)
    weights = path if run is None else run.weights()
    header, model = read_header(weights), load(weights)
    find_classifier(header["family"])
    if "classes" not in header:
        raise ValueError(f"{weights} does not name its classes: it was saved by hand, not by `ommatid train`")
    return Trained(model, WeightFacts.from_header(header), weights, run)
