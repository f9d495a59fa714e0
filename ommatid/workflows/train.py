"""train: teach a model to tell classes of images apart, in a folder from which it can be resumed, used and repeated."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ommatid
from ommatid.data import ImageData, open_data
from ommatid.measuring.machine import describe_machine
from ommatid.models.registry import find
from ommatid.runs.data_place import data_place
from ommatid.runs.files import write_json
from ommatid.runs.run import Run, read_yaml
from ommatid.training.errors import TrainingError
from ommatid.training.initial import check_size, fresh_model, model_from_weights, weights_header
from ommatid.training.processes import is_first_process
from ommatid.training.recipes import load_recipe
from ommatid.training.settings import LARGEST, Settings, usual_size

__all__ = ["TrainResult", "TrainingError", "train"]

DEFAULT_MODEL = "pvt_v2_b0"
DEFAULT_RECIPE = "default"


@dataclass(frozen=True)
class TrainResult:
    """What a training came to: its folder, the best epoch's accuracy and top-5 accuracy (0 to 1), and all epochs."""

    run: Path
    best_accuracy: float
    top5: float
    epochs: int
    seconds: float
    curve: list[dict[str, float]]


def train(
    data: str | Path | None = None,
    *,
    model: str | None = None,
    recipe: str | Path | None = None,
    epochs: int | None = None,
    size: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    strategy: str | None = None,
    seed: int | None = None,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> TrainResult:
    """Trains a model to classify images, and judges it on the validation part after each epoch.

    Everything random follows from `seed`: on CPU, the same settings give the same weights, bit for bit, also when the
    training was killed and resumed in between.

    Args:
        data: as `open_data` takes it.
        model: a registered name; a small one where not given, or the one in `weights`.
        recipe: the name of a recipe, or a YAML file. `epochs`, `batch`, `lr` and `precision` replace what it says.
        size: side of the images in pixels; near the data's own where not given.
        compile: compile the model first; it pays off in long trainings.
        devices, nodes, strategy: accelerators (processes on CPU) and machines; `batch` is shared between all.
        weights: where to start from: our own weights, or a reference checkpoint of `model`.
        out: the run folder; `runs/MODEL-DATE` where not given.
        resume: a run folder to continue instead; every setting is the run's own.
        config: a run's config.yaml to repeat; what is given beside it replaces what it says.
        set: fields of the model's config.
        workers: processes that read images; none where all images are in memory.
        progress: show how far it is.

    Raises:
        ValueError: a setting is impossible, in one line, before anything is written.
        TrainingError: the loss became infinite or no number.
    """
    given: dict[str, Any] = {
        "data": None if data is None else data_place(data),
        "model": model,
        "size": size,
        "weights": None if weights is None else str(Path(weights).expanduser().resolve()),
        "seed": seed,
        "devices": devices,
        "nodes": nodes,
        "strategy": strategy,
        "compile": compile,
        "workers": workers,
        "set": dict(set) if set else None,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    recipe_changes: dict[str, Any] = {"epochs": epochs, "batch": batch, "lr": lr, "precision": precision}
    if resume is not None:
        others = asked | {"recipe": recipe, "config": config, "out": out} | recipe_changes
        _refuse_beside_resume([name for name, value in others.items() if value is not None])
        return _resume(Run.open(resume), progress)
    base = {} if config is None else _repeated(Path(config))
    chosen = load_recipe(recipe or DEFAULT_RECIPE) if recipe or not base else base["recipe"]
    asked = base | asked | {"recipe": chosen.changed(**recipe_changes)}
    if "data" not in asked:
        raise ValueError("no data is named: give digits, an image folder, a CSV of path,label, or torchvision:NAME")
    settings = Settings(**({"model": _usual_model(asked.get("weights")), "set": {}} | asked))
    return _start(settings, None if out is None else Path(out).expanduser(), progress)


def _start(settings: Settings, out: Path | None, progress: bool) -> TrainResult:
    say = _speaker(progress)
    if out is not None:
        _check_free(out)
    data = _open(settings, None, say)
    settings = _with_defaults(settings, data, say)
    model = _initial_model(settings, data, say)
    run = Run(out or _unused_folder(settings.model))
    if is_first_process():
        run = Run.create(run.path, settings.to_dict(), _split(data), _machine())
    return _fit(model, data, settings, run, progress)


def _resume(run: Run, progress: bool) -> TrainResult:
    say = _speaker(progress)
    if run.finished:
        say(f"{run.path} has finished: nothing to resume")
        return _outcome(run.path, run.metrics())
    settings = Settings.from_dict(run.config, str(run.path / "config.yaml"))
    data = _open(settings, run.split, say)
    if data.fingerprint() != run.split["fingerprint"]:
        raise ValueError(f"{settings.data} has other images than when {run.path} was started: start a new run")
    if run.checkpoint.is_file():
        return _fit(run.load_model(best=False).train(), data, settings, run, progress)
    return _fit(_initial_model(settings, data, say), data, settings, run, progress)


def _split(data: ImageData) -> dict[str, Any]:
    """What a resumed training opens the same data by, and knows them by."""
    return {"classes": list(data.classes), "fingerprint": data.fingerprint()} | data.split()


def _machine() -> dict[str, Any]:
    """What the training runs on, and the versions beyond torch's that its numbers may depend on."""
    return describe_machine() | {"lightning": version("lightning"), "ommatid": ommatid.__version__}


def _fit(model: nn.Module, data: ImageData, settings: Settings, run: Run, progress: bool) -> TrainResult:
    # Lightning takes seconds to import; whoever mistyped a setting was told before.
    from ommatid.training.fit import fit

    bar = progress and sys.stderr.isatty()
    say = _speaker(progress and not bar)
    path, rows = fit(model, data, settings, run, bar=bar, say=say)
    outcome = _outcome(path, rows)
    if is_first_process():
        names = ("best_accuracy", "top5", "epochs", "seconds")
        write_json(path / "result.json", {name: getattr(outcome, name) for name in names})
    return outcome


def _outcome(path: Path, rows: list[dict[str, float]]) -> TrainResult:
    best = max(rows, key=lambda row: row["val_accuracy"])
    seconds = sum(row["seconds"] for row in rows)
    return TrainResult(path, best["val_accuracy"], best["val_top5"], len(rows), seconds, rows)


def _repeated(config: Path) -> dict[str, Any]:
    values = read_yaml(config)
    if not isinstance(values, dict):
        raise ValueError(f"{config} is not the configuration of a training")
    settings = Settings.from_dict(values, str(config))
    return {name: getattr(settings, name) for name in settings.to_dict()}


def _refuse_beside_resume(names: list[str]) -> None:
    if names:
        raise ValueError(f"a resumed run keeps its settings: leave out {', '.join(names)}, or start a new run")


def _check_free(out: Path) -> None:
    if not is_first_process():
        return
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, and a run needs a folder")
    if (out / "config.yaml").exists():
        raise ValueError(f"{out} already holds a run: continue it with resume ({out}), or choose another folder")


def _unused_folder(model: str) -> Path:
    stem = f"{model}-{datetime.now():%Y%m%d-%H%M%S}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    return next(path for path in (Path("runs") / name for name in names) if not path.exists())


def _usual_model(weights: str | None) -> str:
    """The model in the weights, or the default."""
    if weights is None:
        return DEFAULT_MODEL
    header = weights_header(Path(weights))
    if header is None:
        raise ValueError(f"{weights} does not say which model it holds: name it (--model)")
    return header.get("name", header["family"])


def _with_defaults(settings: Settings, data: ImageData, say: Callable[[str], None]) -> Settings:
    """Chooses the image size and the number of workers where they were not named, and drops what can't be had."""
    recipe = settings.recipe.suited_to(data)
    if recipe != settings.recipe:
        say(f"{data.origin}: mirror images would mean something else, so the recipe's flip is left out")
    if len(data.train) < recipe.batch:
        raise ValueError(
            f"batch = {recipe.batch} is not possible: allowed is at most {len(data.train)}, the training images of "
            f"{data.origin}"
        )
    if settings.strategy == "fsdp":
        # Shards of the weights have no copy beside them that could be averaged.
        recipe = replace(recipe, ema=0.0)
    return replace(
        settings,
        recipe=recipe,
        size=settings.size or _usual_size(settings, data.native_size),
        workers=_usual_workers(data) if settings.workers is None else settings.workers,
    )


def _usual_size(settings: Settings, native_size: int) -> int:
    """The size that the weights were trained for; without weights, one near the data's own."""
    if settings.weights is None:
        return usual_size(native_size)
    header = weights_header(Path(settings.weights)) or {}
    table = getattr(find(settings.model)[1], "image_size", LARGEST)
    return int(header.get("image_size", table if isinstance(table, int) else max(table)))


def _usual_workers(data: ImageData) -> int:
    return 0 if data.train.in_memory else min(4, max((os.cpu_count() or 1) - 1, 1))


def _initial_model(settings: Settings, data: ImageData, say: Callable[[str], None]) -> nn.Module:
    assert settings.size is not None
    shape = {"num_classes": len(data.classes), "size": settings.size}
    own = {"drop_path_rate": settings.recipe.drop_path} | settings.set
    torch.manual_seed(settings.seed)
    if settings.weights is None:
        model = fresh_model(settings.model, own, **shape)
    else:
        model = model_from_weights(Path(settings.weights), settings.model, own, **shape, say=say)
    check_size(model, settings.size, len(data.classes))
    return model


def _open(settings: Settings, split: dict[str, Any] | None, say: Callable[[str], None]) -> ImageData:
    data = open_data(settings.data, seed=settings.seed, split=split)
    if data.skipped:
        name, reason = data.skipped[0]
        say(f"{len(data.skipped)} files of {settings.data} are left out; the first is {name}: {reason}")
    return data


def _speaker(aloud: bool) -> Callable[[str], None]:
    """Prints a line for people, once for all processes; or keeps quiet."""
    return (lambda line: print(line, file=sys.stderr)) if aloud and is_first_process() else (lambda line: None)
