"""explore: which composition of parts is best for these images, within what may be spent on this machine?"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ommatid.measuring.machine import describe_machine
from ommatid.measuring.measure import measure
from ommatid.measuring.part_costs import CostTable
from ommatid.methods.composing.budget import Budget
from ommatid.methods.composing.search import Search, Tried
from ommatid.methods.composing.space import Space, chosen_parts
from ommatid.models.config import require
from ommatid.nn.deploy import deployed_copy
from ommatid.report.formats import significant
from ommatid.report.recommend import pareto_front
from ommatid.runs.alone import alone_in
from ommatid.runs.comparison import new_row, save
from ommatid.runs.data_place import data_place
from ommatid.runs.exploration import check_alike, write_compositions
from ommatid.runs.run import Run
from ommatid.runs.trained import CLASSIFICATION
from ommatid.training.recipes import load_recipe
from ommatid.training.tasks import find_task
from ommatid.workflows.composition_trial import Trial, TrialResult
from ommatid.workflows.spread import spread

CALIBRATING = 8
"""Whole compositions measured, where the table of this machine is new."""

METRIC = "accuracy"


@dataclass(frozen=True)
class Exploration:
    """What stays the same during a search.

    training: keyword arguments of `train`, for the short trainings. table: what pieces cost here.
    """

    folder: Path
    budget: Budget
    space: Space
    search: Search
    table: CostTable
    training: Mapping[str, Any]
    results: Mapping[str, Any]
    console: Console

    def reject(self, fields: dict[str, Any]) -> str | None:
        """Why a composition is not worth training, found out without building it; the dearest question comes last."""
        try:
            config = self.space.config(fields)
            if self.budget.exceeded("parameters", self.table.parameters(config)):
                return "parameters"
            if "macs" in self.budget.limits and self.budget.exceeded("macs", self.table.multiply_adds(config)):
                return "macs"
            limit = self.budget.limits.get("latency_ms", float("inf"))
            return "latency" if self.table.latency_ms(config, limit=limit) >= limit else None
        except ValueError:
            return "impossible"

    def predicted(self, fields: dict[str, Any]) -> float:
        return self.table.latency_ms(self.space.config(fields))

    def run_of(self, number: int) -> Path:
        return self.folder / "runs" / f"{number:03d}"

    def say(self, line: str) -> None:
        self.console.print(line)


def explore(
    data: str | Path,
    *,
    budget: str,
    trials: int = 50,
    hours: float | None = None,
    mixers: str | None = None,
    channel_mixers: str | None = None,
    recipe: str | Path = "quick",
    epochs: int | None = None,
    size: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    ray: str | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Searches compositions of parts (`pyramid`) for the best accuracy at every latency, and writes a page of them.

    Candidates are refused by their predicted cost; those that fit are trained for a short while, and stopped early
    where one as fast was clearly better. All is kept in an SQLite file: killed at any moment, the same call continues.

    Args:
        data: as for `train`.
        budget: limits of latency, params and macs, as in "latency<5ms,params<10M".
        trials: compositions to train, with those of earlier calls.
        hours: when no more are begun.
        mixers, channel_mixers: names and wildcards with commas; all parts where None.
        recipe, epochs, size, batch, lr: of the short trainings, as for `train`.
        threads: that latency is predicted and measured with; PyTorch's number where None.
        ray: the address of a Ray cluster that trains side by side; "local" for this machine's cores.
        out: the folder; one in runs/ named after data, budget and settings where None.

    Returns:
        The path of report.html. Beside it winner.yaml is the most accurate within the budget, for `ommatid train
        --config`, and compositions/ has a file for each of the front, for `ommatid compare --models`.

    Raises:
        ValueError: the data or a setting is impossible, or no composition fits the budget.
    """
    require(trials >= 1, "trials", trials, "1 or more")
    require(hours is None or hours > 0, "hours", hours, "a number above 0")
    limits = Budget.parse(budget)
    task = find_task(CLASSIFICATION)
    load_recipe(recipe).changed(epochs=epochs, batch=batch, lr=lr, precision=None)
    images = task.open(str(data), None)
    side = size or task.usual_size(images)
    space = Space(
        side, len(images.classes), chosen_parts("mixer", mixers), chosen_parts("channel_mixer", channel_mixers)
    )
    training = {"recipe": str(recipe), "epochs": epochs, "size": side, "batch": batch, "lr": lr, "seed": seed}
    settings = {"budget": budget, **training, "mixers": mixers, "channel_mixers": channel_mixers, "threads": threads}
    place = data_place(data, task.embedded)
    folder = Path(out).expanduser() if out else Path("runs", _default_name(place, settings))
    asked = {"trials": trials, "hours": hours, "ray": ray, "out": out}
    results = {
        "title": f"Compositions for {Path(images.origin).name}",
        "task": task.name,
        "yardstick": task.yardstick.to_dict(),
        "data": {
            "origin": images.origin,
            "fingerprint": images.fingerprint(),
            **task.facts(images),
            "train": len(images.train),
            "val": len(images.val),
            "skipped": [skip._asdict() for skip in images.skipped],
        },
        "machine": describe_machine(),
        "settings": json.loads(json.dumps(settings)),
        "command": _command(data, settings | asked),
    }
    console = Console(stderr=True, quiet=not progress, highlight=False, markup=False, soft_wrap=True)
    with alone_in(folder):
        check_alike(folder, results)
        search, table = Search(folder / "search.db", space, seed=seed), CostTable(threads=threads)
        this = Exploration(folder, limits, space, search, table, training | {"data": place}, results, console)
        if table.scale is None:
            _calibrate(this)
        _search(this, trials, hours, ray)
        page = _finish(this)
    return page


def _calibrate(this: Exploration) -> None:
    this.say(f"measuring what parts cost here, into {this.table.path}")
    calibrating = Search.drawn(this.space, this.reject, CALIBRATING, seed=0)
    this.table.calibrate(this.space.config(fields) for fields in calibrating)
    this.table.save()


def _search(this: Exploration, trials: int, hours: float | None, ray: str | None) -> None:
    """Trains until there are so many compositions, or the time is over; what an earlier call had begun comes first."""
    end = time.monotonic() + 3600 * hours if hours else float("inf")

    def jobs() -> Iterator[Trial]:
        for tried in this.search.tried():
            if tried.state == "begun":
                yield _job(this, tried)
        while len(this.search.tried()) < trials and time.monotonic() < end:
            proposed = this.search.propose(this.reject)
            this.table.save()
            yield _job(this, proposed)

    for trial, result, failure in spread(Trial.run, jobs(), ray):
        _note_down(this, trial, result, failure)
        if ray is None:
            _measure(this, trial.number)
        _write(this)


def _job(this: Exploration, tried: Tried) -> Trial:
    latency = this.predicted(tried.fields)
    rivals = [
        other.facts["curve"]
        for other in this.search.tried()
        if other.state == "finished" and other.facts["predicted_ms"] <= latency
    ]
    return Trial(
        tried.number, tried.fields, latency, this.run_of(tried.number).resolve(), dict(this.training), tuple(rivals)
    )


def _note_down(this: Exploration, trial: Trial, result: TrialResult | None, failure: str | None) -> None:
    name = f"{trial.number}: {_mixers(trial.fields)}"
    if result is None:
        this.search.fail(trial.number, failure or "no reason is known")
        this.say(f"{name} failed: {failure}")
        return
    facts = {"predicted_ms": trial.predicted_ms, "curve": result.curve, "row": result.row}
    if result.stopped:
        this.search.stop(trial.number, facts)
        this.say(f"{name} stopped after epoch {len(result.curve)}: as fast a composition was better")
    else:
        this.search.finish(trial.number, result.row[METRIC], trial.predicted_ms, facts)
        this.say(f"{name}: {result.row[METRIC]:.1%} at {significant(trial.predicted_ms)} ms, predicted")


def _measure(this: Exploration, number: int) -> None:
    """Measures the speed of a finished composition, once."""
    (tried,) = (tried for tried in this.search.tried() if tried.number == number)
    if tried.state != "finished" or this.search.notes(number):
        return
    run = Run.open(this.run_of(number))
    model = deployed_copy(run.load_model())
    found = measure(model, size=run.size, threads=this.table.threads, seconds=1.0)
    this.search.note(
        number,
        {
            "latency_ms": found.latency_ms,
            "latency_spread_ms": [found.latency_p25, found.latency_p75],
            "throughput": found.throughput,
            "memory_mb": found.memory_mb,
            "parameters": found.parameters,
            "macs": found.macs,
        },
    )


def _finish(this: Exploration) -> Path:
    for tried in this.search.tried():
        _measure(this, tried.number)
    page = _write(this)
    this.say("\n".join(_told(this)))
    return page


def _write(this: Exploration) -> Path:
    """The page and the tables, and a file for each composition of the front."""
    metrics = find_task(CLASSIFICATION).yardstick.metrics
    rows = []
    for tried in this.search.tried():
        if tried.state in ("finished", "failed"):
            blank = new_row(
                f"{tried.number}: {_mixers(tried.fields)}", "pyramid", 0, f"runs/{tried.number:03d}", metrics
            )
            found = {"status": "done", **tried.facts["row"]} if tried.state == "finished" else {"status": "failed"}
            rows.append(blank | found | this.search.notes(tried.number) | {"error": tried.facts.get("error")})
    front = _front(this)
    winner = _winner(this, front)
    composed = {tried.number: tried.fields for tried in front}
    write_compositions(this.folder, composed, this.run_of(winner.number) if winner else None)
    return save(this.folder, {**this.results, "notes": _told(this), "runs": rows})


def _front(this: Exploration) -> list[Tried]:
    """Those that no other beats in accuracy and latency, the fastest first; as measured, or else as predicted."""
    finished = [tried for tried in this.search.tried() if tried.state == "finished"]
    points = [(_latency(this, tried), tried.facts["row"][METRIC]) for tried in finished]
    return [finished[index] for index in pareto_front(points)]


def _winner(this: Exploration, front: list[Tried]) -> Tried | None:
    """The most accurate one within the budget, as measured; or as predicted, where none was when it was measured."""
    within = [tried for tried in front if not this.budget.exceeded("latency_ms", _latency(this, tried))]
    return next(reversed(within or front), None)


def _latency(this: Exploration, tried: Tried) -> float:
    return this.search.notes(tried.number).get("latency_ms", tried.facts["predicted_ms"])


def _told(this: Exploration) -> list[str]:
    """What the search came to, in sentences."""
    tried, rejected = this.search.tried(), this.search.rejected
    refused, stopped = sum(rejected.values()), [one.state for one in tried].count("stopped")
    why = ", ".join(f"{count} by {reason}" for reason, count in sorted(rejected.items(), key=lambda item: -item[1]))
    lines = [
        f"{len(tried) + refused} compositions considered for {this.budget.text}: {refused} refused without being built"
        f"{f' ({why})' if why else ''}, {len(tried)} trained, {stopped} of them stopped early."
    ]
    winner = _winner(this, _front(this))
    if winner:
        slow = this.budget.exceeded("latency_ms", _latency(this, winner))
        lines += [
            f"Winner: {winner.number} ({_mixers(winner.fields)}), {winner.facts['row'][METRIC]:.1%}, predicted "
            f"{significant(winner.facts['predicted_ms'])} ms{f'; measured {slow}' if slow else ''}.",
            f"Train it: ommatid train --config {this.folder / 'winner.yaml'} --out FOLDER",
        ]
    return lines


def _mixers(fields: Mapping[str, Any]) -> str:
    return ", ".join(fields["mixer"])


def _default_name(place: str, settings: Mapping[str, Any]) -> str:
    """The same for the same command, so that it finds what it has begun."""
    told = hashlib.sha256(json.dumps([place, settings]).encode()).hexdigest()[:8]
    return f"explore-{Path(place).stem.replace(':', '-')}-{told}"


def _command(data: str | Path, options: Mapping[str, Any]) -> str:
    words = ["ommatid", "explore", str(data)]
    given = {name.replace("_", "-"): value for name, value in options.items() if value is not None}
    return shlex.join([*words, *(word for name, value in given.items() for word in (f"--{name}", str(value)))])
