"""export: a file that runs a trained model without this library, checked against the model, with what it expects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.deployment.export import FORMATS, Freedom, exported_error
from ommatid.models.config import require
from ommatid.models.weights import read_header
from ommatid.runs.files import replacing, write_json
from ommatid.runs.trained import CLASSIFICATION, find_weights, open_restorer, open_trained, task_of

BATCHES = (1, 2, 5)
"""Of the random images that the file is checked on."""


@dataclass(frozen=True)
class Exported:
    """The file, the description beside it, and the largest difference from the model's own answers, as a fraction of
    their largest magnitude."""

    path: Path
    description: Path
    error: float


@dataclass(frozen=True)
class Subject:
    """What is exported: a model, the side of its images in pixels, what may differ, and what users must know."""

    model: nn.Module
    size: int
    freedom: Freedom
    description: dict[str, Any]

    def images(self, batch: int, larger: int = 0) -> Tensor:
        """Random ones; where sizes are free, taller by `larger` times what heights are multiples of, twice as wider."""
        if self.freedom.multiple is None:
            return torch.rand(batch, 3, self.size, self.size)
        rows, columns = self.freedom.multiple
        height, width = (-(-self.size // multiple) * multiple for multiple in self.freedom.multiple)
        return torch.rand(batch, 3, height + larger * rows, width + 2 * larger * columns)


def export(run_or_weights: str | Path, *, format: str = "onnx", out: str | Path | None = None) -> Exported:
    """Writes a trained model as a file for other programs, and beside it, as JSON, how to prepare images for it.

    Any number of images at a time works; a restoration network also takes any size that is a multiple of what the
    description says. The file is run, and its answers compared with the model's, before it is kept.

    Args:
        format: "onnx", or "torch" for a torch.export program.
        out: the file; beside the weights where None.

    Raises:
        ValueError: no trained model, an unknown format, a missing package, or the file answers otherwise.
    """
    require(format in FORMATS, "format", format, " or ".join(FORMATS))
    suffix, write, open_file = FORMATS[format]
    weights, _ = find_weights(run_or_weights)
    subject = _classifier(weights) if task_of(read_header(weights)) == CLASSIFICATION else _restorer(weights)
    path = weights.with_suffix(suffix) if out is None else Path(out).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        write(subject.model, subject.images(2), draft, subject.freedom)
        images = [subject.images(batch, larger=batch - 1) for batch in BATCHES]
        error = exported_error(subject.model, open_file(draft), images)
    description = path.with_suffix(".json")
    write_json(description, {"file": path.name, "format": format} | subject.description)
    return Exported(path, description, error)


def _classifier(weights: Path) -> Subject:
    trained = open_trained(weights)
    facts = trained.facts
    description = {
        "model": facts.name,
        "task": CLASSIFICATION,
        "input": {"name": "image", "shape": ["batch", 3, facts.size, facts.size], "type": "float32, RGB"},
        "prepare": "the centre square, resized (bicubic, antialiased), divided by 255, minus mean, divided by std",
        "mean": facts.mean,
        "std": facts.std,
        "output": {"name": "answer", "shape": ["batch", len(facts.classes)], "type": "float32, logits"},
        "classes": facts.classes,
    }
    return Subject(trained.model, facts.size, Freedom(), description)


def _restorer(weights: Path) -> Subject:
    trained = open_restorer(weights)
    model, facts = trained.model, trained.facts
    answer = [f"{model.scale} height", f"{model.scale} width"]
    description = {
        "model": facts.name,
        "task": "restoration",
        "undoes": facts.degrade,
        "input": {"name": "image", "shape": ["batch", 3, "height", "width"], "type": "float32, RGB, 0 to 1"},
        "prepare": "divided by 255; height and width continued to multiples of `multiple`, best by mirroring",
        "multiple": model.multiple,
        "output": {"name": "answer", "shape": ["batch", 3, *answer], "type": "float32, RGB, about 0 to 1"},
    }
    return Subject(model, facts.size, Freedom(model.multiple), description)
