"""export: a file that runs a trained model without this library, checked against the model, with what it expects."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from ommatid.data import eval_transform
from ommatid.data.dense import normalized
from ommatid.data.photographs import JUDGED_BY, list_photographs
from ommatid.deployment.capture import capture_widest, classifier_sides
from ommatid.deployment.dense import VIEWS, dense_sides, form_of
from ommatid.deployment.export import FORMATS, exported_error
from ommatid.deployment.exported import description_of
from ommatid.deployment.prepare import Prepared
from ommatid.models.config import require
from ommatid.models.dense import DenseModel, Detector, MaskTransformer
from ommatid.models.restorer import Sides
from ommatid.models.weights import read_header
from ommatid.runs.files import write_json
from ommatid.runs.trained import (
    CLASSIFICATION,
    DETECTION,
    INSTANCES,
    PANOPTIC,
    RESTORATION,
    SEGMENTATION,
    Trained,
    find_weights,
    open_dense,
    open_restorer,
    open_trained,
    task_of,
)
from ommatid.training.tasks.dense import told

BATCHES = (1, 2, 5)
"""Of the random images that the file is checked on."""


@dataclass(frozen=True)
class Exported:
    """The file, the description beside it, and the largest difference from the model's own answers, as a fraction of
    their largest magnitude. `sides`: the heights and widths that it takes; None for one size alone."""

    path: Path
    description: Path
    error: float
    sides: Sides | None

    @property
    def sizes(self) -> str:
        """Which images the file takes, in words."""
        if self.sides is None:
            return "of one size"
        rows, columns = self.sides.multiple
        words = "of any size" if rows == columns == 1 else f"of sides that are multiples of {rows} and {columns}"
        return words if self.sides.longest is None else f"{words}, up to {self.sides.longest}"


@dataclass(frozen=True)
class Subject:
    """What is exported: a model, height and width of its images in pixels, what users must know, which sides other
    images may have (None: the same), how a picture becomes an image (3, H, W), the type of an image's values, and
    what the parts of the answer are called."""

    model: nn.Module
    size: tuple[int, int]
    description: dict[str, Any]
    sides: Sides | None
    prepare: Callable[[Image.Image], Tensor]
    type: torch.dtype = torch.float32
    outputs: tuple[str, ...] = ("answer",)

    def images(self, batch: int, sides: Sides | None, larger: int = 0) -> Tensor:
        """Random ones; where sides are free, taller by `larger` times what heights are multiples of, twice as wider."""
        height, width = self.size
        if sides is not None:
            rows, columns = sides.multiple
            if sides.longest is not None:
                height, width = min(height, sides.longest // 2), min(width, sides.longest // 2)
            height, width = sides.nearest(height + larger * rows, width + 2 * larger * columns)
        images = torch.rand(batch, 3, height, width)
        return images if self.type.is_floating_point else (256 * images).to(self.type)

    def photographs(self) -> Iterator[Tensor]:
        """Real images (1, 3, H, W)."""
        for record in list_photographs().records:
            if Path(record.name).name in JUDGED_BY:
                yield self.prepare(Image.fromarray(np.array(record.source)))[None]


def export(
    run_or_weights: str | Path, *, format: str = "onnx", prepare: bool = False, out: str | Path | None = None
) -> Exported:
    """Writes a trained model as a file for other programs, and beside it, as JSON, how to prepare images for it.

    Any number of images at a time works, and any size that is a multiple of what the description says, where the
    architecture takes the same steps at every size. The file is run, on random images and on photographs, and its
    answers compared with the model's, before it is kept.

    Args:
        format: "onnx", "openvino", "torch" for a torch.export program, or "aotinductor" for machine code, which runs
            on processors of this kind alone.
        prepare: puts the preparation of images for a classifier into the file: it takes uint8 pictures of any size.
        out: the file; beside the weights where None.

    Raises:
        ValueError: no trained model, an unknown format, a missing package, a model that cannot be exported, or a file
            that answers otherwise.
    """
    require(format in FORMATS, "format", format, " or ".join(FORMATS))
    kind = FORMATS[format]
    weights, _ = find_weights(run_or_weights)
    task = task_of(read_header(weights))
    require(task in SUBJECTS, "task", task, f"{' or '.join(SUBJECTS)}, in {weights}")
    subject = SUBJECTS[task](weights)
    if prepare:
        subject = _prepared(subject)
    path = weights.with_suffix(kind.suffix) if out is None else Path(out).expanduser()
    require(path.name.endswith(kind.suffix), "out", str(path), f"a name that ends in {kind.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with moved_into(path) as draft:
        try:
            program, sides = capture_widest(subject.model, subject.images(2, subject.sides), subject.sides)
            kind.write(program, draft, subject.outputs)
            images = [subject.images(batch, sides, larger=batch - 1) for batch in BATCHES]
            error = exported_error(subject.model, kind.open(draft), [*images, *subject.photographs()])
        except ValueError:
            raise
        except Exception as problem:  # exporters and runtimes have errors of their own, of many lines
            reason = (_refusal(problem).strip().splitlines() or [type(problem).__name__])[0]
            raise ValueError(f"{subject.description['model']} cannot be exported as {format}: {reason}") from problem
    description = description_of(path)
    write_json(description, {"file": path.name, "format": format, **subject.description, **_free(sides)})
    return Exported(path, description, error, sides)


def _free(sides: Sides | None) -> dict[str, Any]:
    """What a description says about sizes."""
    if sides is None:
        return {}
    return {
        "multiple": sides.multiple,
        "shortest": sides.nearest(1, 1),
        "longest": None if sides.longest is None else sides.nearest(sides.longest, sides.longest),
    }


@contextmanager
def moved_into(path: Path) -> Iterator[Path]:
    """Yields a path of the same name in a folder of its own; what is written there moves beside `path` in the end."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        draft = Path(folder) / path.name
        yield draft
        # The file itself last: where it is, all is there that it needs.
        for written in sorted(Path(folder).iterdir(), key=draft.__eq__):
            os.replace(written, path.parent / written.name)


def _refusal(problem: BaseException) -> str:
    """The model's own words, where it is the model that refuses, from inside of what the exporter says."""
    cause: BaseException | None = problem
    while cause is not None:
        if isinstance(cause, ValueError) and "allowed is" in str(cause):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return str(problem)


def classifier_subject(trained: Trained) -> Subject:
    """A classifier, as it is exported."""
    facts = trained.facts
    description = {
        "model": facts.name,
        "task": CLASSIFICATION,
        "input": {"name": "image", "shape": ["batch", 3, facts.size, facts.size], "type": "float32, RGB"},
        "prepare": "the centre square, resized (bicubic, antialiased), divided by 255, minus mean, divided by std",
        "size": facts.size,
        "mean": facts.mean,
        "std": facts.std,
        "output": {"name": "answer", "shape": ["batch", len(facts.classes)], "type": "float32, logits"},
        "classes": facts.classes,
    }
    sides = classifier_sides(trained.model, facts.size)
    return Subject(trained.model, (facts.size,) * 2, description, sides, eval_transform(facts.size))


def _prepared(subject: Subject) -> Subject:
    """The classifier with its preparation in front."""
    facts = subject.description
    require(facts["task"] == CLASSIFICATION, "prepare", True, "false for all but classifiers")
    model = Prepared(subject.model, facts["size"], facts["mean"], facts["std"])
    description = facts | {
        "input": {"name": "image", "shape": ["batch", 3, "height", "width"], "type": "uint8, RGB"},
        "prepare": "none: the file takes the centre square, resizes and normalises it",
    }
    return Subject(model, subject.size, description, Sides(), pil_to_tensor, torch.uint8)


def _restorer(weights: Path) -> Subject:
    trained = open_restorer(weights)
    model, facts = trained.model, trained.facts
    answer = [f"{model.scale} height", f"{model.scale} width"]
    description = {
        "model": facts.name,
        "task": RESTORATION,
        "undoes": facts.degrade,
        "scale": model.scale,
        "size": facts.size,
        "input": {"name": "image", "shape": ["batch", 3, "height", "width"], "type": "float32, RGB, 0 to 1"},
        "prepare": "divided by 255; height and width continued to multiples of `multiple`, best by mirroring, "
        "and to no less than `shortest`; what is beyond `longest` goes in parts",
        "output": {"name": "answer", "shape": ["batch", 3, *answer], "type": "float32, RGB, about 0 to 1"},
    }
    sides = model.exported_sides()
    height, width = sides.nearest(facts.size, facts.size)
    return Subject(
        model, (facts.size,) * 2, description, sides, lambda picture: pil_to_tensor(picture)[:, :height, :width] / 255
    )


def _scenes(weights: Path) -> Subject:
    trained = open_dense(weights)
    facts = trained.facts
    form = form_of(trained.model, facts.task)
    description = {
        "model": told(trained.model.config),
        "task": facts.task,
        "input": {"name": "image", "shape": ["batch", 3, *facts.sides], "type": "float32, RGB"},
        "prepare": "divided by 255, minus mean, divided by std; where the file takes more than one size, zeros below "
        "and on the right up to multiples of `multiple`, and to no less than `shortest`",
        "sides": facts.sides,
        "view": VIEWS[facts.view],
        "mean": facts.mean,
        "std": facts.std,
        "outputs": form.outputs,
        "classes": facts.classes,
        **({"stuff": facts.stuff} if facts.stuff else {}),
        **_choice(trained.model),
    }
    sides = dense_sides(trained.model, facts.sides)
    height, width = facts.sides if sides is None else sides.nearest(*facts.sides)

    def prepare(picture: Image.Image) -> Tensor:
        return normalized(pil_to_tensor(picture.convert("RGB").resize((width, height))))

    return Subject(form, (height, width), description, sides, prepare, outputs=tuple(form.outputs))


def _choice(model: DenseModel) -> dict[str, Any]:
    """What a description says about how a detector's boxes are chosen from."""
    if not isinstance(model, Detector) or isinstance(model, MaskTransformer):
        return {}
    return {"overlap": model.overlap, "levels": model.levels}


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    CLASSIFICATION: lambda weights: classifier_subject(open_trained(weights)),
    RESTORATION: _restorer,
    SEGMENTATION: _scenes,
    DETECTION: _scenes,
    INSTANCES: _scenes,
    PANOPTIC: _scenes,
}
"""What is exported of the weights of each task."""
