"""A trained model with what it takes to use it: what the header of its weights says beside the architecture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, Self, TypeVar

from torch import nn

from ommatid.models import load
from ommatid.models.dense import DenseModel
from ommatid.models.registry import find_classifier, find_restorer
from ommatid.models.restorer import Restorer
from ommatid.models.weights import read_header
from ommatid.runs.run import Run

CLASSIFICATION, RESTORATION = "classification", "restoration"
SEGMENTATION, DETECTION, INSTANCES, PANOPTIC = "segmentation", "detection", "instances", "panoptic"
PRETRAINING = "pretraining"
"""Names of the tasks, in settings and in headers. A header without one is a classifier's."""


class Facts(Protocol):
    """What the header of weights says for one task."""

    def to_header(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class WeightFacts:
    """Of a classifier.

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
class RestorerFacts:
    """Of a restoration network.

    name: the model that was trained. degrade: what it undoes, as `--degrade` takes it; None where it learned from
    pairs. size: side of its training patches before restoration, in pixels.
    """

    name: str
    degrade: str | None
    size: int

    def to_header(self) -> dict[str, str]:
        return {
            "task": RESTORATION,
            "name": self.name,
            "degrade": self.degrade or "",
            "image_size": str(self.size),
        }

    @classmethod
    def from_header(cls, header: dict[str, str]) -> Self:
        return cls(header["name"], header["degrade"] or None, int(header["image_size"]))


@dataclass(frozen=True)
class SceneFacts:
    """Of a network that gives pixels their classes or segments, or finds things.

    task, name: what was trained for what. sides: height and width of its images in pixels; view: whether pictures are
    fitted into them ("whole") or seen part by part ("window"). mean, std: normalisation, per channel. stuff: classes
    of which a picture has one segment at most.
    """

    task: str
    name: str
    classes: tuple[str, ...]
    sides: tuple[int, int]
    view: Literal["whole", "window"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stuff: tuple[str, ...] = ()

    @property
    def things(self) -> tuple[int, ...]:
        """Labels of the classes whose segments are counted."""
        return tuple(label for label, name in enumerate(self.classes) if name not in self.stuff)

    def to_header(self) -> dict[str, str]:
        return {
            "task": self.task,
            "name": self.name,
            "classes": json.dumps(self.classes, ensure_ascii=False),
            "image_size": str(max(self.sides)),
            "sides": json.dumps(self.sides),
            "view": self.view,
            "normalisation": json.dumps({"mean": self.mean, "std": self.std}),
            **({"stuff": json.dumps(self.stuff, ensure_ascii=False)} if self.stuff else {}),
        }

    @classmethod
    def from_header(cls, header: dict[str, str]) -> Self:
        normalisation = json.loads(header["normalisation"])
        height, width = json.loads(header["sides"])
        return cls(
            task=header["task"],
            name=header["name"],
            classes=tuple(json.loads(header["classes"])),
            sides=(height, width),
            view="window" if header["view"] == "window" else "whole",
            mean=tuple(normalisation["mean"]),
            std=tuple(normalisation["std"]),
            stuff=tuple(json.loads(header.get("stuff", "[]"))),
        )


@dataclass(frozen=True)
class PretrainedFacts:
    """Of a backbone that has learned from pictures without labels.

    name: the model that was trained. method: in words. size: side of its images, in pixels. mean, std: their
    normalisation, per channel.
    """

    name: str
    method: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_header(self) -> dict[str, str]:
        return {
            "task": PRETRAINING,
            "name": self.name,
            "method": self.method,
            "image_size": str(self.size),
            "normalisation": json.dumps({"mean": self.mean, "std": self.std}),
        }

    @classmethod
    def from_header(cls, header: dict[str, str]) -> Self:
        normalisation = json.loads(header["normalisation"])
        return cls(
            name=header["name"],
            method=header["method"],
            size=int(header["image_size"]),
            mean=tuple(normalisation["mean"]),
            std=tuple(normalisation["std"]),
        )


ModelT = TypeVar("ModelT", bound=nn.Module)
FactsT = TypeVar("FactsT", bound=Facts)


@dataclass(frozen=True)
class Opened(Generic[ModelT, FactsT]):
    """`model`, in evaluation mode, loaded from `path`; `run` is the folder it belongs to, if it was found by it."""

    model: ModelT
    facts: FactsT
    path: Path
    run: Run | None


Trained = Opened[nn.Module, WeightFacts]
TrainedRestorer = Opened[Restorer, RestorerFacts]
TrainedScenes = Opened[DenseModel, SceneFacts]


def open_trained(run_or_weights: str | Path) -> Trained:
    """Opens a classifier: a run folder (its best weights) or a .safetensors file that a training wrote.

    Raises ValueError, in one line, where it is neither, or holds a model for another task.
    """
    weights, run = find_weights(run_or_weights)
    header = read_header(weights)
    if task_of(header) != CLASSIFICATION:
        raise ValueError(f"{run_or_weights} is of a {task_of(header)}, which tells no classes apart")
    model = load(weights)
    find_classifier(header["family"])
    if "classes" not in header:
        raise ValueError(f"{weights} does not name its classes: it was saved by hand, not by `ommatid train`")
    return Trained(model, WeightFacts.from_header(header), weights, run)


def open_restorer(run_or_weights: str | Path) -> TrainedRestorer:
    """Opens a restoration network, from a run folder (its best weights) or from a .safetensors file of a training.

    Raises ValueError, in one line, where it is neither, or holds a model for another task.
    """
    weights, run = find_weights(run_or_weights)
    header = read_header(weights)
    if "classes" in header:
        raise ValueError(f"{run_or_weights} is of a {task_of(header)}: it tells classes apart and restores no pictures")
    model = load(weights)
    find_restorer(header["family"])
    assert isinstance(model, Restorer)
    if "degrade" not in header:
        raise ValueError(f"{weights} does not say what it undoes: it was saved by hand, not by `ommatid train`")
    return TrainedRestorer(model, RestorerFacts.from_header(header), weights, run)


def open_dense(run_or_weights: str | Path) -> TrainedScenes:
    """Opens a network for segmentation or detection, from a run folder (its best weights) or a file of a training.

    Raises ValueError, in one line, where it is neither, or holds a model for another task.
    """
    weights, run = find_weights(run_or_weights)
    header = read_header(weights)
    if "sides" not in header:
        raise ValueError(f"{run_or_weights} is of a {task_of(header)}: it knows neither pixels' classes nor boxes")
    model = load(weights)
    assert isinstance(model, DenseModel)
    return TrainedScenes(model, SceneFacts.from_header(header), weights, run)


def find_weights(run_or_weights: str | Path) -> tuple[Path, Run | None]:
    """The weights file, and the run folder it was found by. Raises ValueError where there is no such file or run."""
    path = Path(run_or_weights).expanduser()
    if path.is_file():
        return path, None
    run = Run.open(path)
    return run.weights(), run


def task_of(header: dict[str, str]) -> str:
    """The name of the task that a header's weights were trained for."""
    return header.get("task", CLASSIFICATION)
