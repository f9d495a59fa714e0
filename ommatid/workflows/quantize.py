"""quantize: a trained classifier in 8 bits, with what that costs in accuracy and gains in time and size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ommatid.data import Samples, eval_transform, make_loader, open_data, open_evaluation
from ommatid.deployment.capture import capture
from ommatid.deployment.export import FORMATS
from ommatid.deployment.exported import description_of
from ommatid.deployment.integer_runtimes import INTEGER_RUNTIMES
from ommatid.deployment.quantize import quantized
from ommatid.deployment.runtime import Run
from ommatid.measuring.timing import Call, alternate, quartiles
from ommatid.models.config import require
from ommatid.nn.deploy import deployed_copy
from ommatid.runs.evaluation import own_run
from ommatid.runs.files import write_json
from ommatid.runs.trained import Trained, open_trained
from ommatid.workflows.export import classifier_subject, moved_into
from ommatid.workflows.tolerance import parse_tolerance

CALIBRATION, BATCH = 320, 32
"""Training images whose activations are looked at, and how many go through the model at a time."""

ROUNDS, SECONDS = 30, 8.0
"""Timed calls of the model before and after, at most, and none begun after so long."""


@dataclass(frozen=True)
class Side:
    """The model before or after: accuracy 0 to 1, file size in units of 2^20 bytes, milliseconds for one image."""

    accuracy: float
    size_mb: float
    latency_ms: float


@dataclass(frozen=True)
class Quantized:
    """The file, its description, both sides, and the operations that stayed in floating point."""

    path: Path
    description: Path
    before: Side
    after: Side
    in_float: tuple[str, ...]

    @property
    def gain(self) -> float:
        """How many times as fast the model became."""
        return self.before.latency_ms / self.after.latency_ms


def quantize(
    run_or_weights: str | Path,
    data: str | Path | None = None,
    *,
    format: str = "openvino",
    tolerance: str = "1 point",
    out: str | Path | None = None,
) -> Quantized:
    """Writes a trained classifier as a file that computes in 8-bit integers.

    Activations are looked at on training images. Accuracy is that on the validation part; where more of it is lost than
    allowed, the operations that cost the most stay in floating point. `predict`, `evaluate` and `bench` take the file.

    Args:
        data: where the images come from, as for `train`; the run's own where None.
        format: "openvino" or "onnx", which ONNX Runtime runs.
        tolerance: what may be lost, in points of accuracy: "1 point", "0.5 points".
        out: the file; `NAME.int8.xml` or `NAME.int8.onnx` beside the weights where None.

    Raises:
        ValueError: no trained classifier, no data, a missing package, or an impossible tolerance.
    """
    allowed = parse_tolerance(tolerance)
    require(format in INTEGER_RUNTIMES, "format", format, " or ".join(INTEGER_RUNTIMES))
    runtime, ending = INTEGER_RUNTIMES[format], FORMATS[format].suffix
    trained = open_trained(run_or_weights)
    calibration, judged = _images(trained, data)
    subject = classifier_subject(trained)
    path = trained.path.with_suffix(runtime.suffix) if out is None else Path(out).expanduser()
    require(path.name.endswith(ending), "out", str(path), f"a name that ends in {ending}")
    size = trained.facts.size
    program = capture(trained.model, torch.rand(2, 3, size, size))
    judge = partial(accuracy_of, judged)
    integers, in_float = quantized(program, calibration, runtime, judge=judge, allowed_drop=allowed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with moved_into(path) as draft:
        runtime.save(integers, draft)
    before, after = _sides(trained, runtime.run(integers), judged, path)
    told = {"before": asdict(before), "after": asdict(after), "in_float": in_float, "tolerance": allowed}
    description = description_of(path)
    write_json(description, {"file": path.name, "format": format, **subject.description, "quantized": told})
    return Quantized(path, description, before, after, in_float)


Batches = list[tuple[Tensor, Tensor]]


def _images(trained: Trained, data: str | Path | None) -> tuple[list[Tensor], Batches]:
    """Batches to calibrate on, and batches with labels to judge by."""
    run = own_run(trained)
    if data is not None:
        seen = judged = open_evaluation(data, trained.facts.classes)
    elif run is not None:
        own = open_data(str(run.config["data"]), split=run.split)
        seen, judged = own.train, own.val
    else:
        raise ValueError(f"{trained.path} lies outside of its run folder: name the data to calibrate on")
    calibration = [images for images, _ in _batches(seen, trained, shuffle=True)[: CALIBRATION // BATCH]]
    return calibration, _batches(judged, trained, shuffle=False)


def _batches(samples: Samples, trained: Trained, *, shuffle: bool) -> Batches:
    loader = make_loader(samples, eval_transform(trained.facts.size), batch=BATCH, shuffle=shuffle, seed=0)
    return list(loader)


def accuracy_of(batches: Batches, run: Run) -> float:
    """Share of right answers."""
    right = sum(int(run(images).argmax(1).eq(labels).sum()) for images, labels in batches)
    return right / sum(len(labels) for _, labels in batches)


def _sides(trained: Trained, integers: Run, judged: Batches, path: Path) -> tuple[Side, Side]:
    model = deployed_copy(trained.model)
    with torch.inference_mode():
        accuracies = [accuracy_of(judged, run) for run in (model, integers)]
        image = judged[0][0][:1].contiguous()
        calls: list[Call] = [partial(run, image) for run in (model, integers)]
        times = zip(*alternate(calls, torch.device("cpu"), rounds=ROUNDS, seconds=SECONDS), strict=True)
    parts = (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)
    sizes = [trained.path.stat().st_size, sum(part.stat().st_size for part in parts)]
    before, after = (
        Side(accuracy, size / 2**20, 1e3 * quartiles(list(taken)).median)
        for accuracy, size, taken in zip(accuracies, sizes, times, strict=True)
    )
    return before, after
