"""compress: a trained model with fewer units or weights, fine-tuned, measured, and what it cost in accuracy."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ommatid.measuring.machine import describe_machine
from ommatid.measuring.measure import image_for
from ommatid.methods.pruning.registry import METHODS, Method, Task
from ommatid.models.config import require, suggest
from ommatid.models.weights import save
from ommatid.report.compress import compress_page
from ommatid.runs.alone import alone_in
from ommatid.runs.data_place import data_place
from ommatid.runs.evaluation import own_run
from ommatid.runs.files import replacing, write_json, write_text
from ommatid.runs.run import Run, read_json
from ommatid.runs.trained import Trained, open_trained
from ommatid.training.methods import quoted
from ommatid.training.recipes import Recipe
from ommatid.workflows import compress_int8
from ommatid.workflows.compress_costs import TIMED, Costs, fair_clock
from ommatid.workflows.compress_int8 import Integers, integers_row
from ommatid.workflows.compress_subject import Subject
from ommatid.workflows.compress_target import Target, advise, cost_ratio, parse_target
from ommatid.workflows.tolerance import parse_tolerance
from ommatid.workflows.train import train

INT8 = METHODS["int8"]


@dataclass(frozen=True)
class Goal:
    """What is to be reached: by which methods, what cost, and how much accuracy (0 to 1) that may take."""

    methods: list[Method]
    target: Target
    tolerance: float


@dataclass(frozen=True)
class Compressed:
    """run: the recommended one's folder, which every verb takes; None where no setting is within the tolerance.

    file: its model in 8 bits, where int8 is among the methods. report: the page. rows: a row of numbers for the
    original and for each setting.
    """

    run: Path | None
    file: Path | None
    report: Path
    rows: list[dict[str, Any]]
    advice: str


def compress(
    run_or_weights: str | Path,
    data: str | Path | None = None,
    *,
    methods: Sequence[str] = ("nvit",),
    target: str = "latency<0.5x",
    tolerance: str = "1 point",
    settings: Sequence[float] | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch: int = 1,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> Compressed:
    """Removes parts of a trained classifier until it costs what the target says, fine-tunes it, and measures.

    Fine-tuning learns from the original's answers too (`distill`). With int8 among the methods, what is tuned is then
    written in 8 bits; latency and size are counted of that file, against the original in float32 in the same runtime.

    Each setting is a run of its own in `out`. Cut, the same call continues.

    Args:
        data: to fine-tune and judge on; that of the run where None.
        methods: names from `METHODS`, applied one after another; each is to reach the target's factor in what it can
            lower.
        target: COST<FACTORx; cost is latency, memory, size, parameters or macs, against those of the original.
        tolerance: how much accuracy may be lost, as in "1 point".
        settings: factors to try; halfway to the target, and the target, where None.
        epochs: of fine-tuning, a quarter of the training's where None. lr: a quarter of the training's peak where None.
        batch: images at a time in the model that is timed.
        seed: of what is random in the methods.
        out: the folder; `compressed` beside the weights where None.

    Raises:
        ValueError: a setting is impossible, or the target is out of reach, in one line.
    """
    aim = parse_target(target)
    goal = Goal(_methods(methods, aim), aim, parse_tolerance(tolerance))
    halfway = ((1 + aim.factor) / 2,) if any(method.prepare for method in goal.methods) else ()
    factors = tuple(settings) if settings else (*halfway, aim.factor)
    for factor in factors:
        require(0 < factor < 1, "settings", factor, "between 0 and 1")
    require(batch >= 1, "batch", batch, "1 or more")
    require(epochs is None or epochs >= 1, "epochs", epochs, "1 or more")
    trained = open_trained(run_or_weights)
    run = own_run(trained)
    if run is None:
        raise ValueError(f"{trained.path} lies outside of its run folder, whose recipe the fine-tuning follows")
    place = data_place(data) if data is not None else str(run.config["data"])
    folder = Path(out).expanduser() if out else trained.path.parent / "compressed"
    asked = {"methods": list(methods), "cost": aim.cost, "data": place, "epochs": epochs, "lr": lr, "batch": batch}
    if INT8 in goal.methods:
        asked["tolerance"] = tolerance
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        work = _Work(Subject(trained, run, place, seed), goal, folder, batch, progress)
        results = _started(folder, asked)
        if not results["rows"]:
            results["rows"].append(work.original())
            write_json(folder / "results.json", results)
        recipe = _recipe(run, folder, epochs, lr)
        for factor in factors:
            if any(row.get("factor") == factor for row in results["rows"]):
                continue
            results["rows"].append(work.setting(factor, recipe))
            write_json(folder / "results.json", results)
        return _reported(folder, results, trained, goal)


def _methods(names: Sequence[str], target: Target) -> list[Method]:
    require(bool(names), "methods", list(names), f"some of {', '.join(METHODS)}")
    for name in names:
        if name not in METHODS:
            raise ValueError(f"no method is called {name!r}{suggest(name, METHODS)}; there are {', '.join(METHODS)}")
    chosen = [METHODS[name] for name in names]
    if not any(target.cost in method.lowers for method in chosen):
        raise ValueError(
            f"{', '.join(names)} lower no {target.cost}: where weights are zero, a processor's kernels multiply by "
            f"zero; allowed is a target of {' or '.join(chosen[0].lowers)}, or a method that removes units, as nvit"
        )
    if INT8 in chosen and target.cost == "memory":
        raise ValueError("int8 runs in OpenVINO, whose memory is not measured: allowed is another target than memory")
    return chosen


@dataclass(frozen=True)
class _Work:
    """One compression: what is compressed, what for, and the settings made from it. batch: images that are timed."""

    subject: Subject
    goal: Goal
    folder: Path
    batch: int
    progress: bool

    @property
    def int8(self) -> bool:
        return INT8 in self.goal.methods

    @cached_property
    def costs(self) -> Costs:
        model, size = self.subject.model, self.subject.trained.facts.size
        return Costs(model, image_for(model, self.batch, (size, size)))

    @cached_property
    def integers(self) -> Integers:
        images = [images for images, _ in self.subject.batches()]
        return Integers(self.subject.model, self.costs.image, images, fair_clock())

    def original(self) -> dict[str, Any]:
        row = {"setting": "original", "factor": 1.0, **self._measured(self.subject.trained), "removed": []}
        return row | ({"latency_ms": self.integers.original_ms(), "latency_ratio": 1.0} if self.int8 else {})

    def setting(self, factor: float, recipe: Path) -> dict[str, Any]:
        """Reduces, fine-tunes, quantises if that is asked for, and measures."""
        name = f"{factor:.3g}x"
        model, removed, errors = self._reduced(factor)
        tuned, row = self.subject.trained, dict[str, Any](setting=name, factor=factor)
        if removed:
            start = self.folder / f"start-{name}.safetensors"
            with replacing(start) as draft:
                save(model, draft, extra=tuned.facts.to_header())
            row["accuracy_before"] = self.subject.accuracy(model)
            tuned = open_trained(self._fine_tuned(start, self.folder / name, recipe))
        row |= {**self._measured(tuned), "error": max(errors, default=None), "removed": removed}
        return row | (self._in_integers(tuned, row["accuracy"]) if self.int8 else {})

    def _measured(self, tuned: Trained) -> dict[str, Any]:
        return {
            "accuracy": self.subject.accuracy(tuned.model),
            **self.costs.row(tuned.model),
            "size_mb": tuned.path.stat().st_size / 2**20,
            "run": str(tuned.path.parent),
        }

    def _reduced(self, factor: float) -> tuple[nn.Module, list[dict[str, Any]], list[float]]:
        """The model, what was removed, and how far each method's is from the masked one; nothing where int8 will do."""
        model, goal = self.subject.model, self.goal
        removed: list[dict[str, Any]] = []
        errors: list[float] = []
        for method in goal.methods:
            cost = goal.target.cost if goal.target.cost in method.lowers else method.lowers[0]
            task = Task(self.subject.batches(), self.costs.macs, self._cost_of(cost, model))
            if method.prepare is None or (self.int8 and task.cost(model) <= factor):
                continue
            torch.manual_seed(self.subject.seed)
            reduced = method.prepare(model, task)(factor)
            model, removed = reduced.model, removed + reduced.removed
            errors += [] if reduced.error is None else [reduced.error]
        return model, removed, errors

    def _cost_of(self, cost: str, model: nn.Module) -> Callable[[nn.Module], float]:
        """How much of the model's cost another has."""
        if self.int8 and cost in ("latency", "size"):
            return self.integers.latency if cost == "latency" else self.integers.size
        return self.costs.against(model, cost)

    def _in_integers(self, tuned: Trained, accuracy: float) -> dict[str, Any]:
        """May lose what the fine-tuned model leaves of the tolerance, and all of it where that is nothing."""
        allowed = self.goal.tolerance
        left = accuracy - (read_json(self.folder / "results.json")["rows"][0]["accuracy"] - allowed)
        own = tuned is not self.subject.trained or self.subject.is_own_data
        data = None if own else self.subject.data
        return integers_row(self.integers, tuned.path, data, allowed=left if left > 0 else allowed)

    def _fine_tuned(self, start: Path, out: Path, recipe: Path) -> Path:
        common: dict[str, Any] = {"progress": self.progress}
        if (out / "config.yaml").is_file():
            return train(resume=out, **common).run
        settings, trained = self.subject.run.config, self.subject.trained
        return train(
            self.subject.data,
            model=settings["model"],
            set=settings.get("set") or None,
            recipe=recipe,
            size=trained.facts.size,
            seed=settings["seed"],
            workers=settings.get("workers"),
            weights=start,
            method=f"distill[teacher={quoted(trained.path)}]",
            out=out,
            **common,
        ).run


def _recipe(run: Run, folder: Path, epochs: int | None, lr: float | None) -> Path:
    """The run's own, shorter and gentler, as a file for `train`."""
    recipe = Recipe.from_dict(run.config["recipe"], str(run.path / "config.yaml"))
    shorter = epochs or max(1, recipe.epochs // 4)
    warmup = min(recipe.warmup_epochs, shorter / 10)
    tuned = replace(recipe, name="compress", epochs=shorter, lr=lr or recipe.lr / 4, warmup_epochs=warmup)
    path = folder / "recipe.yaml"
    values = {name: value for name, value in tuned.to_dict().items() if name != "name"}
    write_text(path, yaml.safe_dump(values, sort_keys=False))
    return path


def _started(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The results so far. Raises ValueError where the folder is of another compression."""
    path = folder / "results.json"
    if not path.is_file():
        return {"asked": asked, "rows": []}
    results = read_json(path)
    for name, value in asked.items():
        if results["asked"].get(name) != value:
            raise ValueError(
                f"{folder} was started with {name} = {results['asked'].get(name)}, now it is {value}: say the same to "
                "continue it, or choose another --out"
            )
    return results


def _reported(folder: Path, results: dict[str, Any], trained: Trained, goal: Goal) -> Compressed:
    rows, target, tolerance = results["rows"], goal.target, goal.tolerance
    original, *settings = rows
    within = [row for row in settings if row["accuracy"] >= original["accuracy"] - tolerance - 1e-9]
    best = min(within, key=lambda row: cost_ratio(row, original, target.cost), default=None)
    advice = advise(best, original, target, tolerance, settings)
    methods = ",".join(results["asked"]["methods"])
    if best and best.get("file"):
        advice += f" Its file: {best['file']}. Timed in {compress_int8.TIMED}."
    command = f"ommatid compress {trained.path.parent} {results['asked']['data']} --methods {methods}"
    page = {
        "model": trained.facts.name,
        "rows": rows,
        "recommended": best and best["setting"],
        "advice": advice,
        "machine": describe_machine(),
        "settings": results["asked"]
        | {
            "target": str(target),
            "tolerance": tolerance,
            "timed": compress_int8.TIMED if "file" in settings[-1] else TIMED,
        },
        "command": f"{command} --target {shlex.quote(str(target))} --batch {results['asked']['batch']}",
    }
    write_text(folder / "report.html", compress_page(page))
    run, file = (Path(best[name]) if best and best.get(name) else None for name in ("run", "file"))
    return Compressed(run, file, folder / "report.html", rows, advice)
