"""compare: which of these models, for these images, on this machine?"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import statistics
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from ommatid.measuring.machine import describe_machine
from ommatid.measuring.measure import measure, usable_device
from ommatid.models.config import require, suggest
from ommatid.models.registry import find
from ommatid.models.weights import read_header
from ommatid.nn.deploy import deployed_copy
from ommatid.report.formats import duration
from ommatid.report.recommend import speed
from ommatid.runs.alone import alone_in
from ommatid.runs.comparison import Row, continued, new_row, save
from ommatid.runs.data_place import data_place
from ommatid.runs.run import Run
from ommatid.runs.trained import CLASSIFICATION
from ommatid.training.choices import check_minutes
from ommatid.training.model_spec import ModelSpec, parse_model
from ommatid.training.processes import is_first_process
from ommatid.training.recipes import Recipe, load_recipe
from ommatid.training.tasks import Task, TaskData, find_task
from ommatid.workflows.spread import reason, spread
from ommatid.workflows.train import train

MEASURES = ("latency_ms", "latency_spread_ms", "throughput", "memory_mb", "parameters", "macs")
"""What does not depend on the seed: measured once for each model."""


@dataclass(frozen=True)
class Plan:
    """What every model of a comparison is put through.

    task: what they are trained for. training: keyword arguments of `train`. common: fields of the models' configs.
    measuring: arguments of `measure`. decoder: what is on the backbones, for tasks that have such.
    """

    task: Task
    data: str | Path
    training: Mapping[str, Any]
    common: Mapping[str, Any]
    measuring: Mapping[str, Any]
    decoder: str | None = None

    def check(self) -> None:
        """Raises ValueError for what is impossible for every model."""
        for name in ("size", "devices"):
            require(self.training[name] is None or self.training[name] >= 1, name, self.training[name], "1 or more")
        threads = self.measuring["threads"]
        require(threads is None or threads >= 1, "threads", threads, "1 or more")
        check_minutes(self.training["minutes"], self.training["epochs"], self.training["devices"])
        usable_device(self.measuring["device"])
        self._recipe()

    def open(self) -> TaskData:
        return self.task.open(str(self.data), self.training["degrade"])

    def settings(self, images: TaskData) -> dict[str, Any]:
        """All that the runs on these images share, as JSON has it."""
        recipe = self.task.suited(self._recipe(), images).to_dict()
        size = self.training["size"] or self.task.usual_size(images)
        rest = {"size": size, "devices": self.training["devices"], "set": self.common}
        if self.training["minutes"] is not None:
            del recipe["epochs"]  # each model has its own
        rest |= {name: self.training[name] for name in ("degrade", "minutes") if self.training[name] is not None}
        if self.decoder is not None:
            rest["decoder"] = self.decoder
        return json.loads(json.dumps({"recipe": recipe.pop("name")} | recipe | rest | dict(self.measuring)))

    def _recipe(self) -> Recipe:
        changes = {name: self.training[name] for name in ("epochs", "batch", "lr", "precision")}
        return load_recipe(self.training["recipe"]).changed(**changes)


def compare(
    data: str | Path,
    models: Sequence[str],
    *,
    task: str | None = None,
    decoder: str | None = None,
    degrade: str | None = None,
    recipe: str | Path | None = None,
    seeds: int | Sequence[int] = 1,
    epochs: int | None = None,
    minutes: float | None = None,
    size: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    precision: str | None = None,
    devices: int | None = None,
    set: Mapping[str, Any] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    ray: str | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Trains every model alike on the same images, measures each here, and writes a page that says which to use.

    What is known is on disk after every step: killed at any moment, the same call continues. Models and seeds can be
    added to a comparison later; what they are trained with cannot change. A model that fails is reported on the page.

    Args:
        models: registered names; `NAME[FIELD=VALUE,...]` changes fields of that model's config. A YAML file of such
            fields is a composition of parts (`pyramid`), or of the `model` that it names.
        seeds: how many trainings of each model, or their seeds.
        decoder: for segmentation and detection, what is on every backbone among the models.
        task, degrade, recipe, epochs, minutes, size, batch, lr, precision, devices: as for `train`.
        set: fields of the models' configs, for every model that has such a field.
        device, threads: what latency, throughput and memory are measured on; PyTorch's number of threads where None.
        ray: the address of a Ray cluster that trains the models side by side ("local": this machine's cores), in the
            same folder; all are measured here, one after the other, when they are trained.
        out: the folder; one in runs/ named after all the above where None.

    Returns:
        The path of report.html.

    Raises:
        ValueError: the data or a setting is impossible, none of the models can be used, or `out` holds a comparison
            made with other settings.
    """
    kind = find_task(task or CLASSIFICATION)
    changes = {"epochs": epochs, "size": size, "batch": batch, "lr": lr, "precision": precision, "devices": devices}
    training = {"task": kind.name, "degrade": degrade, "recipe": recipe or kind.recipe, "minutes": minutes} | changes
    plan = Plan(kind, data, training, dict(set or {}), {"device": device, "threads": threads}, decoder)
    plan.check()
    seeds = _seeds(seeds)
    specs, unusable = _usable(kind, list(dict.fromkeys(models)), plan.common, decoder)
    images = plan.open()
    settings = plan.settings(images)
    folder = Path(out).expanduser() if out else Path("runs", _default_name(plan, models, settings))
    fresh = {
        "title": f"Comparison on {Path(images.origin).name}",
        "task": kind.name,
        "yardstick": kind.yardstick.to_dict(),
        "data": _facts(kind, images),
        "machine": describe_machine(),
        "settings": settings,
        "command": _command(plan, models, seeds, out),
        "runs": _rows(kind, specs, unusable, seeds),
    }
    with alone_in(folder) if is_first_process() else nullcontext():
        results = continued(folder, fresh)
        if ray is not None:
            _train_side_by_side(folder, results, specs, plan, ray, progress)
        _work_off(folder, results, specs, plan, progress)
    return folder / "report.html"


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    require(bool(chosen) and min(chosen) >= 0, "seeds", seeds, "a number of trainings, or their seeds, each 0 or more")
    return chosen


def _usable(
    task: Task, models: Sequence[str], common: Mapping[str, Any], decoder: str | None
) -> tuple[dict[str, ModelSpec], dict[str, str]]:
    """The models that can be built, and the error of those that cannot, by how they were written.

    Raises:
        ValueError: none can be built, or a name in `common` is a field of none.
    """
    specs, unusable = {}, {}
    for text in models:
        try:
            spec = parse_model(text)
            family, settings = task.composed(spec.name, spec.settings, decoder)
            spec = replace(spec, name=family, settings=settings)
            task.find(spec.name, **spec.config(common))
            specs[spec.text] = spec
        except ValueError as error:
            unusable[text] = str(error)
    if not specs:
        raise ValueError(next(iter(unusable.values()), "no model is named; `ommatid models` lists those there are"))
    fields = {name for spec in specs.values() for name in find(spec.name)[1].to_dict()}
    for name in common:
        if name not in fields:
            raise ValueError(f"none of the models has a field {name!r}{suggest(name, fields)}")
    return specs, unusable


def _rows(task: Task, specs: Mapping[str, ModelSpec], unusable: Mapping[str, str], seeds: Sequence[int]) -> list[Row]:
    """One for each model that cannot be used, then for each model and seed, seed by seed: all can be judged early."""
    blank = partial(new_row, metrics=task.yardstick.metrics)
    rows = [
        blank(spec.text, find(spec.settings.get("backbone", spec.name))[0].id, seed, f"runs/{spec.folder}-seed{seed}")
        for seed in seeds
        for spec in specs.values()
    ]
    bad = [blank(text, "", seeds[0], "") | {"status": "failed", "error": why} for text, why in unusable.items()]
    return bad + rows


def _work_off(folder: Path, results: Row, specs: Mapping[str, ModelSpec], plan: Plan, progress: bool) -> None:
    """Trains and measures what is pending, and writes down each step. Raises ValueError if nothing is left."""
    console = _console(progress)
    rows, metric = results["runs"], plan.task.yardstick.judge
    save(folder, results)
    for number, row in enumerate(rows, start=1):
        if row["status"] == "pending":
            console.print(f"{number} of {len(rows)}: {_name(row)}{_time_left(rows, metric.key)}")
            try:
                if row[metric.key] is None:
                    row |= _trained(folder / row["run"], specs[row["model"]], row["seed"], plan, progress)
                    save(folder, results)
                row |= _measured(folder / row["run"], row, rows, plan) | {"status": "done"}
                console.print(f"{_name(row)}: {metric.show(row[metric.key])} at {speed(row, plan.task.yardstick)}")
            except Exception as error:  # a model that fails must not cost the others their turn
                row |= {"status": "failed", "error": reason(error)}
            save(folder, results)
        if row["status"] == "failed":
            console.print(f"{_name(row)} failed: {row['error']}")
    if all(row["status"] == "failed" for row in rows):
        raise ValueError(f"every model failed, as {folder / 'report.html'} shows; the first: {rows[0]['error']}")


@dataclass(frozen=True)
class Training:
    """One row's training, as another process does it."""

    place: int
    path: Path
    spec: ModelSpec
    seed: int
    plan: Plan

    def run(self) -> Row:
        return _trained(self.path, self.spec, self.seed, self.plan, progress=False)


def _train_side_by_side(
    folder: Path, results: Row, specs: Mapping[str, ModelSpec], plan: Plan, ray: str, progress: bool
) -> None:
    """Trains what is pending on a cluster, and writes down each training that is done, or that failed."""
    console = _console(progress)
    rows, metric = results["runs"], plan.task.yardstick.judge
    away = replace(plan, data=data_place(plan.data, plan.task.embedded))
    jobs = [
        Training(place, (folder / row["run"]).resolve(), specs[row["model"]], row["seed"], away)
        for place, row in enumerate(rows)
        if row["status"] == "pending" and row[metric.key] is None
    ]
    save(folder, results)
    for job, found, failure in spread(Training.run, jobs, ray):
        row = rows[job.place]
        row |= found if found is not None else {"status": "failed", "error": failure}
        told = f"trained, {metric.show(row[metric.key])}" if found is not None else f"failed: {failure}"
        console.print(f"{_name(row)} {told}")
        save(folder, results)


def _console(progress: bool) -> Console:
    return Console(stderr=True, quiet=not progress, highlight=False, markup=False, soft_wrap=True)


def _trained(path: Path, spec: ModelSpec, seed: int, plan: Plan, progress: bool) -> Row:
    """What a row says about its training: continued where an earlier one was cut, read where it had finished."""
    if not (path / "config.yaml").is_file():
        shutil.rmtree(path, ignore_errors=True)  # cut while its files were laid out
        fields = spec.config(plan.common)
        train(plan.data, model=spec.name, set=fields, seed=seed, out=path, progress=progress, **plan.training)
    elif not Run.open(path).finished:
        train(resume=path, progress=progress)
    run = Run.open(path)
    first, *others = (metric.key for metric in plan.task.yardstick.metrics)
    return {
        first: run.result[f"best_{first}"],
        **{name: run.result[name] for name in others},
        "train_seconds": run.result["seconds"],
        "size_mb": run.weights().stat().st_size / 2**20,
        "curve": run.metrics(),
    }


def _measured(path: Path, row: Row, rows: Sequence[Row], plan: Plan) -> Row:
    """What a row says about the model's cost here; taken from another seed's row where that has it already."""
    known = next((other for other in rows if other["model"] == row["model"] and other["latency_ms"] is not None), None)
    if known is not None:
        return {name: known[name] for name in MEASURES}
    run = Run.open(path)
    model = deployed_copy(run.load_model())
    found = measure(model, size=plan.task.speed_size or _sides(run), **plan.measuring)
    return {
        "latency_ms": found.latency_ms,
        "latency_spread_ms": [found.latency_p25, found.latency_p75],
        "throughput": plan.task.work_per_second(found, model),
        "memory_mb": found.memory_mb,
        "parameters": found.parameters,
        "macs": found.macs,
    }


def _sides(run: Run) -> int | tuple[int, int]:
    """Of the images that the model was trained on."""
    told = read_header(run.weights()).get("sides")
    if told is None:
        return run.size
    height, width = json.loads(told)
    return height, width


def _time_left(rows: Sequence[Row], metric: str) -> str:
    known = [row["train_seconds"] for row in rows if row["train_seconds"] is not None]
    pending = sum(row[metric] is None and row["status"] == "pending" for row in rows)
    return f", about {duration(statistics.fmean(known) * pending)} left" if known and pending else ""


def _name(row: Row) -> str:
    return f"{row['model']}, seed {row['seed']}"


def _facts(task: Task, images: TaskData) -> dict[str, Any]:
    return {
        "origin": images.origin,
        "fingerprint": images.fingerprint(),
        **task.facts(images),
        "train": len(images.train),
        "val": len(images.val),
        "skipped": [skip._asdict() for skip in images.skipped],
    }


def _default_name(plan: Plan, models: Sequence[str], settings: Mapping[str, Any]) -> str:
    """The same for the same command, so that it finds what it has begun."""
    place = data_place(plan.data, plan.task.embedded)
    told = json.dumps([place, list(models), settings])
    name = Path(place).stem.replace(":", "-")
    return f"compare-{name}-{Path(settings['recipe']).stem}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def _command(plan: Plan, models: Sequence[str], seeds: Sequence[int], out: str | Path | None) -> str:
    """The command line that asks for this comparison."""
    counted = list(seeds) == list(range(len(seeds)))
    # The last comma tells a single seed from a number of trainings.
    told = str(len(seeds)) if counted else "".join(f"{seed}," for seed in seeds)
    words = ["ommatid", "compare", str(plan.data), "--models", ",".join(models)]
    options = {**plan.training, "decoder": plan.decoder, **plan.measuring, "seeds": told, "out": out}
    words += [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    words += [word for name, value in plan.common.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    return shlex.join(words)
