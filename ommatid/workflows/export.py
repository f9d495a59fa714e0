"""export: a file that runs a trained model without this library, checked against the model, with what it expects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.deployment.export import FORMATS, exported_error
from ommatid.models.config import require
from ommatid.models.restorer import Sides
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
    """What is exported: a model, the side of its images in pixels, what users must know, and which sides other images
    may have; None: the same."""

    model: nn.Module
    size: int
    description: dict[str, Any]
    sides: Sides | None = None

    def images(self, batch: int, larger: int = 0) -> Tensor:
        """Random ones; where sides are free, taller by `larger` times what heights are multiples of, twice as wider."""
        if self.sides is None:
            return torch.rand(batch, 3, self.size, self.size)
        rows, columns = self.sides.multiple
        size = self.size if self.sides.longest is None else min(self.size, self.sides.longest // 2)
        return torch.rand(batch, 3, *self.sides.nearest(size + larger * rows, size + 2 * larger * columns))


def export(run_or_weights: str | Path, *, format: str = "onnx", out: str | Path | None = None) -> Exported:
    """Writes a trained model as a file for other programs, and beside it, as JSON, how to prepare images for it.

    Any number of images at a time works; a restoration network also takes any size that is a multiple of what the
    description says. The file is run, and its answers compared with the model's, before it is kept.

    Args:
        format: "onnx", or "torch" for a torch.export program.
        out: the file; beside the weights where None.

    Raises:
        ValueError: no trained model, an unknown format, a missing package, a model that cannot be exported, or a file
            that answers otherwise.
    """
    require(format in FORMATS, "format", format, " or ".join(FORMATS))
    suffix, write, open_file = FORMATS[format]
    weights, _ = find_weights(run_or_weights)
    subject = _classifier(weights) if task_of(read_header(weights)) == CLASSIFICATION else _restorer(weights)
    path = weights.with_suffix(suffix) if out is None else Path(out).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        try:
            write(subject.model, subject.images(2), draft, subject.sides)
            images = [subject.images(batch, larger=batch - 1) for batch in BATCHES]
            error = exported_error(subject.model, open_file(draft), images)
        except ValueError:
            raise
        except Exception as problem:  # exporters and runtimes have errors of their own, of many lines
            reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            raise ValueError(f"{subject.description['model']} cannot be exported as {format}: {reason}") from problem
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
    return Subject(trained.model, facts.size, description)


def _restorer(weights: Path) -> Subject:
    trained = open_restorer(weights)
    model, facts = trained.model, trained.facts
    sides = model.exported_sides()
    answer = [f"{model.scale} height", f"{model.scale} width"]
    description = {
        "model": facts.name,
        "task": "restoration",
        "undoes": facts.degrade,
        "input": {"name": "image", "shape": ["batch", 3, "height", "width"], "type": "float32, RGB, 0 to 1"},
        "prepare": "divided by 255; height and width continued to multiples of `multiple`, best by mirroring, "
        "and to no less than `shortest`; what is beyond `longest` goes in parts",
        "multiple": sides.multiple,
        "shortest": sides.nearest(1, 1),
        "longest": None if sides.longest is None else sides.nearest(sides.longest, sides.longest),
        "output": {"name": "answer", "shape": ["batch", 3, *answer], "type": "float32, RGB, about 0 to 1"},
    }
    return Subject(model, facts.size, description, sides)
