"""compress: a trained model with fewer units or weights, fine-tuned, measured, and what it cost in accuracy."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ommatid.data import ImageData, eval_transform, make_loader, open_data
from ommatid.measuring.machine import describe_machine
from ommatid.measuring.measure import count_macs, forward_memory, image_for
from ommatid.measuring.timing import Clock, alternate, quartiles
from ommatid.methods.pruning.registry import METHODS, Method, Task, nonzero, stored_bytes
from ommatid.models.config import require, suggest
from ommatid.models.weights import save
from ommatid.report.compress import compress_page
from ommatid.runs.alone import alone_in
from ommatid.runs.data_place import data_place
from ommatid.runs.evaluation import own_run
from ommatid.runs.files import replacing, write_json, write_text
from ommatid.runs.inference import probabilities
from ommatid.runs.run import Run, read_json
from ommatid.runs.trained import Trained, open_trained
from ommatid.training.methods import quoted
from ommatid.training.recipes import Recipe
from ommatid.workflows.compress_int8 import TIMED, Integers, integers_row
from ommatid.workflows.compress_target import Target, advise, cost_ratio, parse_target, parse_tolerance
from ommatid.workflows.train import train

CALIBRATION, BATCH = 8, 32
"""Batches of training images that methods look at, and images in each."""

INT8 = METHODS["int8"]

IN_PYTORCH = "PyTorch, deployed, in turn with the original"

ROUNDS, SECONDS = 30, 2.0
"""Timed calls of the original and of the smaller model in turn, at most, and none begun after so long."""


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
    aim, allowed, chosen = parse_target(target), parse_tolerance(tolerance), _methods(methods, parse_target(target))
    halfway = ((1 + aim.factor) / 2,) if any(method.prepare for method in chosen) else ()
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
    if INT8 in chosen:
        asked["tolerance"] = tolerance
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        work = _Work(trained, run, place, chosen, aim, allowed, batch, seed, folder, progress)
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
        return _reported(folder, results, trained, aim, allowed)


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


class _Work:
    """One compression: the original, what it is measured by, and the settings made from it."""

    def __init__(
        self,
        trained: Trained,
        run: Run,
        data: str,
        methods: list[Method],
        target: Target,
        allowed: float,
        batch: int,
        seed: int,
        folder: Path,
        progress: bool,
    ) -> None:
        self.trained, self.run, self.data, self.methods = trained, run, data, methods
        self.target, self.allowed, self.seed, self.folder, self.progress = target, allowed, seed, folder, progress
        size = trained.facts.size
        self.image = image_for(trained.model, batch, (size, size))

    @property
    def int8(self) -> bool:
        return INT8 in self.methods

    @cached_property
    def integers(self) -> Integers:
        images = [images for images, _ in self._batches()]
        return Integers(self.trained.model, self.image, images, fair_clock())

    def original(self) -> dict[str, Any]:
        judged = self._accuracy(self.trained.model)
        row = {"setting": "original", "factor": 1.0, "accuracy": judged, **self._costs(self.trained.model),
               "size_mb": self.trained.path.stat().st_size / 2**20, "run": str(self.trained.path.parent),
               "removed": []}  # fmt: skip
        return row | ({"latency_ms": self.integers.original_ms(), "latency_ratio": 1.0} if self.int8 else {})

    def setting(self, factor: float, recipe: Path) -> dict[str, Any]:
        """Reduces, fine-tunes, quantises if that is asked for, and measures."""
        name = f"{factor:.3g}x"
        model, removed, errors = self._reduced(factor)
        tuned, row = self.trained, dict[str, Any](setting=name, factor=factor)
        if removed:
            start = self.folder / f"start-{name}.safetensors"
            with replacing(start) as draft:
                save(model, draft, extra=self.trained.facts.to_header())
            row["accuracy_before"] = self._accuracy(model)
            tuned = open_trained(self._fine_tuned(start, self.folder / name, recipe))
        row |= {"accuracy": self._accuracy(tuned.model), **self._costs(tuned.model),
                "size_mb": tuned.path.stat().st_size / 2**20, "run": str(tuned.path.parent),
                "error": max(errors, default=None), "removed": removed}  # fmt: skip
        return row | (self._in_integers(tuned, row["accuracy"]) if self.int8 else {})

    def _reduced(self, factor: float) -> tuple[nn.Module, list[dict[str, Any]], list[float]]:
        """The model, what was removed, and how far each method's is from the masked one; nothing where int8 will do."""
        model = self.trained.model
        removed: list[dict[str, Any]] = []
        errors: list[float] = []
        for method in self.methods:
            cost = self.target.cost if self.target.cost in method.lowers else method.lowers[0]
            task = self._task(cost, model)
            if method.prepare is None or (self.int8 and task.cost(model) <= factor):
                continue
            torch.manual_seed(self.seed)
            reduced = method.prepare(model, task)(factor)
            model, removed = reduced.model, removed + reduced.removed
            errors += [] if reduced.error is None else [reduced.error]
        return model, removed, errors

    def _in_integers(self, tuned: Trained, accuracy: float) -> dict[str, Any]:
        """May lose what the fine-tuned model leaves of the tolerance, and all of it where that is nothing."""
        left = accuracy - (read_json(self.folder / "results.json")["rows"][0]["accuracy"] - self.allowed)
        own = tuned is not self.trained or self._is_own
        data = None if own else self.data
        return integers_row(self.integers, tuned.path, data, allowed=left if left > 0 else self.allowed)

    def _task(self, cost: str, model: nn.Module) -> Task:
        return Task(self._batches(), lambda other: count_macs(other, self.image[:1]), self._cost_of(cost, model))

    def _cost_of(self, cost: str, model: nn.Module) -> Callable[[nn.Module], float]:
        """How much of the model's cost another has."""
        if cost == "latency":
            return self.integers.latency if self.int8 else lambda other: self._ratio(other, model)
        if cost == "size" and self.int8:
            return self.integers.size
        counts: Mapping[str, Callable[[nn.Module], float]] = {
            "memory": lambda other: forward_memory(other, self.image),
            "size": stored_bytes,
            "parameters": nonzero,
            "macs": lambda other: count_macs(other, self.image[:1]),
        }
        whole = counts[cost](model)
        return lambda other: counts[cost](other) / whole

    def _ratio(self, other: nn.Module, model: nn.Module) -> float:
        """The time that another model takes for each of the original's, measured in turn."""
        pairs = self._times(other, model)
        return quartiles([mine / theirs for mine, theirs in pairs]).median

    def _times(self, other: nn.Module, model: nn.Module) -> list[tuple[float, ...]]:
        one, two = (part.eval().deploy() for part in (other, model))  # type: ignore[operator]
        with torch.inference_mode():
            return alternate(
                [lambda: one(self.image), lambda: two(self.image)],
                torch.device("cpu"),
                rounds=ROUNDS,
                seconds=SECONDS,
                clock=fair_clock(),
            )

    def _costs(self, model: nn.Module) -> dict[str, Any]:
        times = self._times(model, self.trained.model)
        with torch.inference_mode():
            memory = forward_memory(model, self.image)
        return {
            "latency_ms": 1e3 * quartiles([mine for mine, _ in times]).median,
            "latency_ratio": quartiles([mine / theirs for mine, theirs in times]).median,
            "memory_mb": memory / 2**20,
            "parameters": nonzero(model),
            "macs": count_macs(model, self.image[:1]),
        }

    @cached_property
    def _images(self) -> ImageData:
        """The data, split as the run split them where they are its own."""
        split = self.run.split if self._is_own else None
        return open_data(self.data, seed=self.run.config["seed"], split=split)

    @property
    def _is_own(self) -> bool:
        """Whether the data are those of the run."""
        return self.data == data_place(str(self.run.config["data"]))

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        """Training images, as they are judged."""
        samples, transform = self._images.train, eval_transform(self.trained.facts.size)
        loader = make_loader(samples, transform, batch=min(BATCH, len(samples)), shuffle=True, seed=self.seed)
        return [batch for batch, _ in zip(loader, range(CALIBRATION), strict=False)]

    def _accuracy(self, model: nn.Module) -> float:
        """On the validation part."""
        loader = make_loader(self._images.val, eval_transform(self.trained.facts.size), batch=64, shuffle=False, seed=0)
        device = torch.device("cpu")
        right = [probabilities(model.eval(), images, device).argmax(1).eq(labels) for images, labels in loader]
        return float(torch.cat(right).float().mean())

    def _fine_tuned(self, start: Path, out: Path, recipe: Path) -> Path:
        common: dict[str, Any] = {"progress": self.progress}
        if (out / "config.yaml").is_file():
            return train(resume=out, **common).run
        settings = self.run.config
        return train(
            self.data,
            model=settings["model"],
            set=settings.get("set") or None,
            recipe=recipe,
            size=self.trained.facts.size,
            seed=settings["seed"],
            workers=settings.get("workers"),
            weights=start,
            method=f"distill[teacher={quoted(self.trained.path)}]",
            out=out,
            **common,
        ).run


def fair_clock() -> Clock:
    """Of one thread the processor's own time, which other programs leave alone; of several the time that passes."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


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


def _reported(folder: Path, results: dict[str, Any], trained: Trained, target: Target, tolerance: float) -> Compressed:
    rows = results["rows"]
    original, *settings = rows
    within = [row for row in settings if row["accuracy"] >= original["accuracy"] - tolerance - 1e-9]
    best = min(within, key=lambda row: cost_ratio(row, original, target.cost), default=None)
    advice = advise(best, original, target, tolerance, settings)
    methods = ",".join(results["asked"]["methods"])
    if best and best.get("file"):
        advice += f" Its file: {best['file']}. Timed in {TIMED}."
    command = f"ommatid compress {trained.path.parent} {results['asked']['data']} --methods {methods}"
    page = {
        "model": trained.facts.name,
        "rows": rows,
        "recommended": best and best["setting"],
        "advice": advice,
        "machine": describe_machine(),
        "settings": results["asked"]
        | {"target": str(target), "tolerance": tolerance, "timed": TIMED if "file" in settings[-1] else IN_PYTORCH},
        "command": f"{command} --target {shlex.quote(str(target))} --batch {results['asked']['batch']}",
    }
    write_text(folder / "report.html", compress_page(page))
    run, file = (Path(best[name]) if best and best.get(name) else None for name in ("run", "file"))
    return Compressed(run, file, folder / "report.html", rows, advice)
