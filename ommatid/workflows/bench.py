"""bench: how fast and how large is each of these models, here?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ommatid.deployment.exported import is_exported
from ommatid.measuring.machine import describe_machine
from ommatid.measuring.measure import (
    Measurement,
    Precision,
    check_settings,
    image_for,
    measure,
    native_size,
    prepared,
    usable_device,
)
from ommatid.measuring.peers import Against, import_timm, output_error, summarize, timm_twin
from ommatid.measuring.pixels import PICTURE_SIDE, megapixels_per_second
from ommatid.measuring.timing import alternate, thread_count
from ommatid.measuring.timm_families import TIMM_MODELS
from ommatid.models import create_model, load
from ommatid.models.config import require
from ommatid.models.dense import DenseModel
from ommatid.models.registry import find, find_classifier, is_restorer
from ommatid.models.restorer import Restorer
from ommatid.models.sizes import pair
from ommatid.nn.deploy import deployed_copy
from ommatid.runs.files import check_writable, write_json
from ommatid.runs.trained import SEGMENTATION, SceneFacts, WeightFacts, find_weights
from ommatid.training.tasks import Task, find_task
from ommatid.workflows.opening import open_any

__all__ = ["BenchRow", "Measurement", "bench", "measure"]


@dataclass
class BenchRow:
    """One model's numbers; `error` says in one line why some or all of them are missing.

    megapixels: of a restoration network, millions of pixels made in a second.
    """

    model: str
    measurement: Measurement | None = None
    megapixels: float | None = None
    against: Against | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Flat, as the report floor and JSON take it: every field of the measurement is there, None where it failed."""
        numbers = asdict(self.measurement) if self.measurement else dict.fromkeys(Measurement.__dataclass_fields__)
        against = asdict(self.against) if self.against else None
        made = {"megapixels": self.megapixels, "against": against, "error": self.error}
        return {"model": self.model, **numbers, **made}


def bench(
    models: Iterable[str],
    *,
    size: int | None = None,
    batch: int = 1,
    throughput_batch: int = 8,
    threads: int | None = None,
    precision: Precision = "float32",
    device: str = "cpu",
    deploy: bool = True,
    against: Literal["timm"] | None = None,
    task: str | None = None,
    decoder: str | None = None,
    rounds: int = 50,
    seconds: float = 5.0,
    json_path: str | Path | None = None,
) -> list[BenchRow]:
    """Measures every model with fresh weights. A model that fails becomes a row with its error; the others go on.

    Args:
        models: names of variants or families, as in `create_model`; run folders or weights files of trained models; or
            exported files.
        size: side of the image; where None, the model's own `image_size`, else 224, and 128 for restoration networks;
            an exported file's own height and width.
        deploy: measures the model's `deploy()` copy, as one would use it for inference.
        against: "timm" times timm's model of the same architecture too, in alternation, with equal weights, at `batch`.
        task, decoder: measures what stands on the backbones for segmentation or detection, not the backbones alone.
        json_path: where to write machine, settings and rows as JSON.
        batch, throughput_batch, threads, precision, device, rounds, seconds: as in `measure`.

    Raises:
        ValueError: no models, an impossible setting, or timm asked for and not installed.
    """
    names = list(models)
    if not names:
        raise ValueError("no models to measure: name at least one")
    if against not in (None, "timm"):
        raise ValueError(f"against = {against!r} is not possible: allowed is 'timm'")
    if against:
        import_timm()
    require(size is None or size >= 1, "size", size, "1 or more")
    check_settings(batch, throughput_batch, threads, precision, rounds)
    usable_device(device)
    if json_path is not None:
        check_writable(Path(json_path))
    settings: dict[str, Any] = {
        "size": size,
        "batch": batch,
        "throughput_batch": throughput_batch,
        "threads": threads,
        "precision": precision,
        "device": device,
        "rounds": rounds,
        "seconds": seconds,
    }
    kind = None if task is None and decoder is None else find_task(task or SEGMENTATION)
    rows = [bench_one(name, kind, decoder, deploy=deploy, against=bool(against), settings=settings) for name in names]
    if json_path is not None:
        settings |= {"deploy": deploy, "against": against, "task": task, "decoder": decoder}
        report = {"machine": describe_machine(), "settings": settings, "rows": [row.to_dict() for row in rows]}
        write_json(Path(json_path), report)
    return rows


def bench_one(
    name: str,
    task: Task | None = None,
    decoder: str | None = None,
    *,
    deploy: bool,
    against: bool,
    settings: dict[str, Any],
) -> BenchRow:
    """The row of one model. `settings` are the keyword arguments of `measure`."""
    row = BenchRow(name)
    try:
        twin = None
        if is_exported(name):
            subject, size = open_file(name, settings)
            settings = settings | {"size": size}
        else:
            model = create_at_size(name, settings["size"], task, decoder)
            twin = timm_twin(name, model) if against and name in TIMM_MODELS else None
            subject = deployed_copy(model) if deploy else model
        if isinstance(subject, Restorer):
            settings = settings | {"size": settings["size"] or PICTURE_SIDE}
        row.measurement = measure(subject, **settings)
        if isinstance(subject, Restorer):
            row.megapixels = megapixels_per_second(row.measurement, subject.scale)
        if twin is not None:
            row.against = race_twin(name, subject, twin, settings)
        elif against:
            row.error = f"timm has no model of the architecture {name!r}"
    except Exception as error:  # one broken model must not hide the numbers of the others
        row.error = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return row


def open_file(path: str, settings: dict[str, Any]) -> tuple[nn.Module, int | tuple[int, int] | None]:
    """An exported file as a model, and the sides of its images where none are set; its precision is its own."""
    require(settings["precision"] == "float32", "precision", settings["precision"], "float32 for exported files")
    require(settings["device"] == "cpu", "device", settings["device"], "cpu for exported files")
    with thread_count(settings["threads"]):  # runtimes take their number of threads once, when a file is opened
        opened = open_any(path)
    if settings["size"] is not None:
        return opened.model, settings["size"]
    match opened.facts:
        case SceneFacts(sides=sides):
            return opened.model, sides
        case WeightFacts(size=side):
            return opened.model, side
    return opened.model, None


def create_at_size(name: str, size: int | None, task: Task | None = None, decoder: str | None = None) -> nn.Module:
    """The model with position tables for the size, where its family has any; a trained one as it is.

    Restoration networks take every size.
    """
    if Path(name).suffix == ".safetensors" or (Path(name) / "config.yaml").is_file():
        return load(find_weights(name)[0])
    if task is not None:
        name, fields = task.composed(name, {}, decoder)
        task.find(name, **fields)
        return create_model(name, **({"image_size": size} if size and "backbone" in fields else {}), **fields).eval()
    if is_restorer(*find(name)) or issubclass(find(name)[0].model, DenseModel):
        return create_model(name).eval()
    _, config = find_classifier(name)
    return create_model(name, **({"image_size": size} if size and hasattr(config, "image_size") else {})).eval()


def race_twin(name: str, model: nn.Module, twin: nn.Module, settings: dict[str, Any]) -> Against:
    """Alternating forward passes of our model and timm's, which are checked to agree first."""
    size = pair(settings["size"] or native_size(model))
    device = usable_device(settings["device"])
    error = output_error(model, twin, image_for(model, 1, size))
    ours, theirs = (prepared(module, device, settings["precision"]) for module in (model, twin))
    image = image_for(ours, settings["batch"], size)
    with thread_count(settings["threads"]), torch.inference_mode():
        pairs = alternate(
            [lambda: ours(image), lambda: theirs(image)],
            device,
            rounds=settings["rounds"],
            seconds=2 * settings["seconds"],
        )
    return summarize(f"timm {TIMM_MODELS[name]}", pairs, error)
