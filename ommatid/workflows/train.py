"""train: teach a model its task, in a folder from which it can be resumed, used and repeated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ommatid
from ommatid.measuring.machine import describe_machine
from ommatid.models.dense import DenseModel
from ommatid.models.registry import find
from ommatid.report.metric import Metric
from ommatid.runs.alone import alone_in
from ommatid.runs.data_place import data_place
from ommatid.runs.files import write_json
from ommatid.runs.run import Run, read_yaml
from ommatid.runs.trained import CLASSIFICATION, find_weights
from ommatid.training.choices import check_minutes, chosen_model, filling, with_defaults
from ommatid.training.errors import TrainingError
from ommatid.training.initial import backbone_from_weights, fresh_model, model_from_weights, weights_header
from ommatid.training.methods import find_method
from ommatid.training.optimizer import parts_below
from ommatid.training.processes import is_first_process
from ommatid.training.recipes import load_recipe
from ommatid.training.settings import Settings
from ommatid.training.tasks import Task, TaskData, find_task

__all__ = ["TrainResult", "TrainingError", "train"]


Watch = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    run: its folder. best: the metrics of the best epoch; baseline: those that are reached without a model, where the
    task has such. metric: the one of them that decides. waited_share: of the seconds, those in which the steps had no
    batch to work on. curve: a row of numbers for each epoch.
    """

    run: Path
    metric: Metric
    best: dict[str, float]
    baseline: dict[str, float]
    epochs: int
    seconds: float
    waited_share: float
    curve: list[dict[str, float]]

    @property
    def best_accuracy(self) -> float:
        """Of a classifier, 0 to 1."""
        return self.best["accuracy"]

    @property
    def top5(self) -> float:
        """Of a classifier, 0 to 1."""
        return self.best["top5"]

    @property
    def told(self) -> str:
        """The deciding metric in words, beside what is reached without a model: 31.06 dB (28.41 dB before)."""
        before = self.baseline.get(self.metric.key)
        best = self.metric.exact(self.best[self.metric.key])
        return best if before is None else f"{best} ({self.metric.exact(before)} before)"

    def to_dict(self) -> dict[str, float]:
        """What result.json says: best_accuracy, top5, epochs, seconds, waited_share; for other tasks, their metrics."""
        first, *others = self.best.items()
        baseline = {f"baseline_{name}": value for name, value in self.baseline.items()}
        return {
            f"best_{first[0]}": first[1],
            **dict(others),
            **baseline,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "waited_share": self.waited_share,
        }


def train(
    data: str | Path | None = None,
    *,
    task: str | None = None,
    degrade: str | None = None,
    model: str | None = None,
    decoder: str | None = None,
    checkpoint: bool | None = None,
    recipe: str | Path | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    size: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    strategy: str | None = None,
    method: str | None = None,
    seed: int | None = None,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    workers: int | None = None,
    progress: bool = True,
    watch: Watch | None = None,
) -> TrainResult:
    """Trains a model for a task, and judges it on the validation part after each epoch.

    Everything random follows from `seed`: on CPU, the same settings give the same weights, bit for bit, also when the
    training was killed and resumed in between.

    Args:
        data: for classification as `open_data` takes it, for restoration as `open_pictures` does, for segmentation,
            detection, instances and panoptic as `open_scenes` does, for pretraining as `open_unlabelled` does.
        task: classification (where not given), restoration, segmentation, detection, instances, panoptic, or
            pretraining, which needs a method.
        degrade: for restoration, what is done to the pictures and learned to be undone, as in "bicubic x2 + noise 10";
            None for pairs.
        model: a registered name, `NAME[FIELD=VALUE,...]`, or a YAML file of a composition; a small one where not given,
            or the one in `weights`. For tasks of annotated pictures that of a backbone, or of a whole network.
        decoder: for these, what is on the backbone; the task's usual one where not given.
        checkpoint: for these, keep less in memory in a training step, and compute it once more.
        recipe: the name of a recipe, or a YAML file. `epochs`, `batch`, `lr` and `precision` replace what it says.
        minutes: as many epochs as about fill this time here, by the pace of the first steps, instead of `epochs`.
        size: side of the images in pixels, near the data's own where not given; for restoration, of the patches that
            the model sees in training.
        compile: compile the model first; it pays off in long trainings.
        devices, nodes, strategy: accelerators (processes on CPU) and machines; `batch` is shared between all.
        method: what is done beyond the recipe: "ewa" (experts in training, averaged into the model), "adversarial"
            (against attacks), "distill" (taught by a trained model), "spread" (experts on several processes),
            "progressive_shrinking" (for super-networks), or these with settings, as in "ewa[experts=8]". For
            pretraining, what is learned: "simmim" (transformers), "spark" (convolutional networks), "pixpro".
        weights: where to start from: a run or our own weights, or a reference checkpoint of `model`.
        out: the run folder; `runs/MODEL-DATE` where not given.
        resume: a run folder to continue instead; every setting is the run's own.
        config: a run's config.yaml to repeat; what is given beside it replaces what it says.
        set: fields of the model's config.
        workers: processes that read images; none where all images are in memory.
        progress: show how far it is.
        watch: called with each epoch's row of metrics.csv; what it raises ends the training, which can be resumed.

    Raises:
        ValueError: a setting is impossible, in one line, before anything is written.
        TrainingError: the loss became infinite or no number.
    """
    given: dict[str, Any] = {
        "data": data,
        "task": task,
        "degrade": degrade,
        "model": model,
        "size": size,
        "weights": None if weights is None else _weights_file(Path(weights).expanduser()),
        "seed": seed,
        "devices": devices,
        "nodes": nodes,
        "strategy": strategy,
        "method": method,
        "compile": compile,
        "workers": workers,
        "set": dict(set) if set else None,
        "decoder": decoder,
        "checkpoint": checkpoint,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    recipe_changes: dict[str, Any] = {"epochs": epochs, "batch": batch, "lr": lr, "precision": precision}
    if resume is not None:
        others = asked | {"recipe": recipe, "config": config, "out": out, "minutes": minutes} | recipe_changes
        _refuse_beside_resume([name for name, value in others.items() if value is not None])
        return _resume(Run.open(resume), progress, watch)
    check_minutes(minutes, epochs, devices, nodes)
    base = {} if config is None else _repeated(Path(config))
    kind = find_task((base | asked).get("task", CLASSIFICATION))
    chosen = load_recipe(recipe or kind.recipe) if recipe or not base else base["recipe"]
    asked = base | asked | {"recipe": chosen.changed(**recipe_changes)}
    if "data" not in asked:
        raise ValueError(f"no data is named: give {kind.data_forms}")
    asked["data"] = data_place(asked["data"], kind.embedded)
    chosen = chosen_model(kind, asked, decoder, checkpoint)
    settings = Settings(**({name: asked[name] for name in asked if name not in ("decoder", "checkpoint")} | chosen))
    return _start(settings, minutes, None if out is None else Path(out).expanduser(), progress, watch)


def _start(
    settings: Settings, minutes: float | None, out: Path | None, progress: bool, watch: Watch | None
) -> TrainResult:
    say = _speaker(progress)
    if out is not None:
        _check_free(out)
    task = find_task(settings.task)
    data = _open(task, settings, None, say)
    settings = with_defaults(task, settings, data, say)
    model = _initial_model(task, settings, data, say)
    if minutes is not None:
        settings = filling(minutes, model, data, settings, say)
    path = out or _unused_folder(settings.model)
    if not is_first_process():
        return _fit(model, data, settings, Run(path), progress, watch)
    with alone_in(path):
        _check_free(path)  # another training may have begun there since
        run = Run.create(path, settings.to_dict(), _split(task, data), _machine())
        return _fit(model, data, settings, run, progress, watch)


def _resume(run: Run, progress: bool, watch: Watch | None) -> TrainResult:
    say = _speaker(progress)
    settings = Settings.from_dict(run.config, str(run.path / "config.yaml"))
    task = find_task(settings.task)
    if run.finished:
        say(f"{run.path} has finished: nothing to resume")
        return _outcome(run.path, run.metrics(), task, baseline=_known_baseline(run))
    with alone_in(run.path) if is_first_process() else nullcontext():
        data = _open(task, settings, run.split, say)
        if data.fingerprint() != run.split["fingerprint"]:
            raise ValueError(f"{settings.data} has other images than when {run.path} was started: start a new run")
        begun = run.checkpoint.is_file()
        model = _continued_model(run, settings) if begun else _initial_model(task, settings, data, say)
        return _fit(model, data, settings, run, progress, watch)


def _split(task: Task, data: TaskData) -> dict[str, Any]:
    """What a resumed training opens the same data by, and knows them by."""
    return task.facts(data) | {"fingerprint": data.fingerprint()} | data.split()


def _machine() -> dict[str, Any]:
    """What the training runs on, and the versions beyond torch's that its numbers may depend on."""
    return describe_machine() | {"lightning": version("lightning"), "ommatid": ommatid.__version__}


def _fit(
    model: nn.Module, data: TaskData, settings: Settings, run: Run, progress: bool, watch: Watch | None
) -> TrainResult:
    # Lightning takes seconds to import; whoever mistyped a setting was told before.
    from ommatid.training.fit import fit

    bar = progress and sys.stderr.isatty()
    say = _speaker(progress and not bar)
    path, rows = fit(model, data, settings, run, bar=bar, say=say, watch=watch)
    task = find_task(settings.task)
    outcome = _outcome(path, rows, task, baseline=task.baseline(data))
    if is_first_process():
        write_json(path / "result.json", outcome.to_dict())
    return outcome


def _outcome(path: Path, rows: list[dict[str, float]], task: Task, *, baseline: dict[str, float]) -> TrainResult:
    metrics = task.yardstick.metrics
    row = max(rows, key=lambda row: row[f"val_{metrics[0].key}"])
    best = {metric.key: row[f"val_{metric.key}"] for metric in metrics}
    seconds = sum(row["seconds"] for row in rows)
    waited = sum(row.get("waited", 0.0) for row in rows)
    return TrainResult(path, metrics[0], best, baseline, len(rows), seconds, waited / seconds, rows)


def _known_baseline(run: Run) -> dict[str, float]:
    return {name.removeprefix("baseline_"): value for name, value in run.result.items() if name.startswith("baseline_")}


def _repeated(config: Path) -> dict[str, Any]:
    values = read_yaml(config)
    if not isinstance(values, dict):
        raise ValueError(f"{config} is not the configuration of a training")
    settings = Settings.from_dict(values, str(config))
    return {name: getattr(settings, name) for name in settings.to_dict()}


def _weights_file(path: Path) -> str:
    """Of a run, its best weights."""
    return str((find_weights(path)[0] if path.is_dir() else path).resolve())


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
    return next(path for path in (Path("runs") / name for name in names) if _take(path))


def _take(path: Path) -> bool:
    """Whether `path` was free. It is made at once: of two trainings that begin in one second, each has its own."""
    if not is_first_process():
        return not path.exists()
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def _initial_model(task: Task, settings: Settings, data: TaskData, say: Callable[[str], None]) -> nn.Module:
    assert settings.size is not None
    shape = task.fitted(data) | {"size": settings.size}
    config = find(settings.model)[1]
    drop_path = {"drop_path_rate": settings.recipe.drop_path} if hasattr(config, "drop_path_rate") else {}
    own = drop_path | settings.set
    torch.manual_seed(settings.seed)
    if settings.weights is None:
        model = fresh_model(settings.model, own, **shape)
    elif _is_for_backbone(settings):
        model = fresh_model(settings.model, own, **shape)
        assert isinstance(model, DenseModel)
        backbone_from_weights(model, Path(settings.weights), say=say)
    else:
        model = model_from_weights(Path(settings.weights), settings.model, own, **shape, say=say)
    task.check_model(model, settings.size, data)
    return find_method(settings.method).begin(
        _frozen(model, settings), settings, pretrained=settings.weights is not None
    )


def _continued_model(run: Run, settings: Settings) -> nn.Module:
    """Of the run's last epoch, in the shape that its checkpoint fits."""
    model = _frozen(run.load_model(best=False).train(), settings)
    return find_method(settings.method).begin(model, settings, pretrained=True)


def _is_for_backbone(settings: Settings) -> bool:
    """Whether the weights are those of a classifier, and the model is a backbone with something on it."""
    family, config = find(settings.model)
    if not hasattr(config, "backbone"):
        return False
    header = weights_header(Path(settings.weights or ""))
    return header is None or header["family"] != family.id


def _frozen(model: nn.Module, settings: Settings) -> nn.Module:
    """With a backbone that stays as it is, where its rate is 0. Raises ValueError for rates that it cannot have."""
    parts_below(model, settings.recipe)
    if settings.recipe.backbone_lr == 0 and isinstance(model, DenseModel):
        model.freeze_backbone()
    return model


def _open(task: Task, settings: Settings, split: dict[str, Any] | None, say: Callable[[str], None]) -> TaskData:
    data = task.open(settings.data, settings.degrade, seed=settings.seed, split=split)
    if data.skipped:
        name, reason = data.skipped[0]
        say(f"{len(data.skipped)} files of {settings.data} are left out; the first is {name}: {reason}")
    return data


def _speaker(aloud: bool) -> Callable[[str], None]:
    """Prints a line for people, once for all processes; or keeps quiet."""
    return (lambda line: print(line, file=sys.stderr)) if aloud and is_first_process() else (lambda line: None)
