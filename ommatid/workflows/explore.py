"""explore: which composition of parts, or part of a super-network, is best for these images, within a budget?"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from ommatid.data import ImageData
from ommatid.measuring.machine import describe_machine
from ommatid.measuring.measure import measure
from ommatid.measuring.part_costs import CostTable
from ommatid.methods.composing.budget import Budget
from ommatid.methods.composing.search import Search, Space, Tried
from ommatid.models.config import require
from ommatid.nn.deploy import deployed_copy
from ommatid.report.formats import significant
from ommatid.report.recommend import pareto_front
from ommatid.runs.alone import alone_in
from ommatid.runs.comparison import new_row, save
from ommatid.runs.data_place import data_place
from ommatid.runs.exploration import check_alike
from ommatid.runs.run import Run
from ommatid.runs.trained import CLASSIFICATION
from ommatid.training.tasks import find_task
from ommatid.workflows.composition_trial import Curve, TrialResult
from ommatid.workflows.explore_compositions import Compositions
from ommatid.workflows.explore_subnets import Subnets
from ommatid.workflows.spread import spread
from ommatid.workflows.subnet_trial import Source

CALIBRATING = 8
"""Whole models measured, where the table of this machine is new."""

METRIC = "accuracy"


class Work(Protocol):
    """A candidate on its way, in any process."""

    @property
    def number(self) -> int: ...

    @property
    def fields(self) -> Mapping[str, Any]: ...

    @property
    def predicted_ms(self) -> float: ...

    def run(self) -> TrialResult: ...


class Subject(Protocol):
    """What is searched: compositions to be trained, or the parts of a super-network.

    noun: what candidates are called. done: what those within the budget were. family: of their models. images: that
    they are judged on. table: what their pieces cost here. options: of the command, that decide what comes of it.
    facts: what else does.
    """

    noun: str
    done: str
    family: str
    title: str
    images: ImageData
    table: CostTable
    options: dict[str, Any]
    facts: dict[str, Any]

    @property
    def space(self) -> Space: ...

    def config(self, fields: dict[str, Any]) -> Any:
        """What the table knows the costs of. Raises ValueError: impossible."""

    def trial(self, tried: Tried, predicted_ms: float, path: Path, rivals: Sequence[Curve]) -> Work:
        """What is to be done with a candidate, in the run folder `path`. rivals: curves of those that are as fast."""

    def name(self, fields: Mapping[str, Any]) -> str:
        """A candidate in a few words."""

    def write(self, folder: Path, front: Mapping[int, dict[str, Any]], winner: Path | None) -> None:
        """The front by number, and the run of the winner, as files ready to use."""

    def advice(self, folder: Path) -> str:
        """What to do with the winner."""


@dataclass(frozen=True)
class Exploration:
    """What stays the same during a search."""

    folder: Path
    budget: Budget
    subject: Subject
    search: Search
    results: Mapping[str, Any]
    console: Console

    @property
    def table(self) -> CostTable:
        return self.subject.table

    def reject(self, fields: dict[str, Any]) -> str | None:
        """Why a candidate is not worth a trial, found out without building it; the dearest question comes last."""
        try:
            config = self.subject.config(fields)
            if self.budget.exceeded("parameters", self.table.parameters(config)):
                return "parameters"
            if "macs" in self.budget.limits and self.budget.exceeded("macs", self.table.multiply_adds(config)):
                return "macs"
            limit = self.budget.limits.get("latency_ms", float("inf"))
            return "latency" if self.table.latency_ms(config, limit=limit) >= limit else None
        except ValueError:
            return "impossible"

    def predicted(self, fields: dict[str, Any]) -> float:
        return self.table.latency_ms(self.subject.config(fields))

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
    supernet: str | Path | None = None,
    mixers: str | None = None,
    channel_mixers: str | None = None,
    recipe: str | Path | None = None,
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
    """Searches compositions of parts (`pyramid`), or the parts of a super-network, and writes a page of the best.

    Candidates are refused by their predicted cost. Compositions that fit are trained for a short while, and stopped
    early where one as fast was clearly better; sub-networks are judged as they are, their batch norms measured anew.
    All is kept in an SQLite file: killed at any moment, the same call continues.

    Args:
        data: as for `train`.
        budget: limits of latency, params and macs, as in "latency<5ms,params<10M".
        trials: candidates to train or to judge, with those of earlier calls.
        hours: when no more are begun.
        supernet: the run of a super-network (`train(method="progressive_shrinking")`) whose parts are searched.
        mixers, channel_mixers: names and wildcards with commas; all parts where None.
        recipe, epochs, size, batch, lr: of the short trainings, as for `train`; the recipe is "quick" where None.
        threads: that latency is predicted and measured with; PyTorch's number where None.
        ray: the address of a Ray cluster that works side by side; "local" for this machine's cores.
        out: the folder; one in runs/ named after data, budget and settings where None.

    Returns:
        The path of report.html. Beside it winner.yaml is the most accurate within the budget, for `ommatid train
        --config`, and compositions/ has a file for each of the front, for `ommatid compare --models`; of sub-networks,
        winner/ is a run folder.

    Raises:
        ValueError: the data or a setting is impossible, or no candidate fits the budget.
    """
    require(trials >= 1, "trials", trials, "1 or more")
    require(hours is None or hours > 0, "hours", hours, "a number above 0")
    limits, task = Budget.parse(budget), find_task(CLASSIFICATION)
    place = data_place(data, task.embedded)
    training = {"recipe": recipe and str(recipe), "epochs": epochs, "size": size, "batch": batch, "lr": lr}
    parts = {"mixers": mixers, "channel_mixers": channel_mixers}
    subject: Subject
    if supernet is None:
        subject = Compositions(place, training, **parts, seed=seed, threads=threads)
    else:
        _refuse_beside_supernet(training | parts)
        subject = Subnets(Source.of(data_place(supernet), place), seed=seed, threads=threads)
    images, options = subject.images, {"budget": budget, **subject.options, "threads": threads}
    settings = {**options, **subject.facts}
    folder = Path(out).expanduser() if out else Path("runs", _default_name(place, settings))
    asked = {"trials": trials, "hours": hours, "ray": ray, "out": out}
    results = {
        "title": subject.title,
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
        "command": _command(data, options | asked),
    }
    console = Console(stderr=True, quiet=not progress, highlight=False, markup=False, soft_wrap=True)
    with alone_in(folder):
        check_alike(folder, results)
        search = Search(folder / "search.db", subject.space, seed=seed)
        this = Exploration(folder, limits, subject, search, results, console)
        if this.table.scale is None:
            _calibrate(this)
        _search(this, trials, hours, ray)
        page = _finish(this)
    return page


def _refuse_beside_supernet(options: Mapping[str, Any]) -> None:
    given = [name.replace("_", "-") for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"parts of a super-network are not trained, nor composed: leave out {', '.join(given)}")


def _calibrate(this: Exploration) -> None:
    this.say(f"measuring what their pieces cost here, into {this.table.path}")
    calibrating = Search.drawn(this.subject.space, this.reject, CALIBRATING, seed=0)
    this.table.calibrate(this.subject.config(fields) for fields in calibrating)
    this.table.save()


def _search(this: Exploration, trials: int, hours: float | None, ray: str | None) -> None:
    """Until there are so many candidates, or the time is over; what an earlier call had begun comes first."""
    end = time.monotonic() + 3600 * hours if hours else float("inf")

    def jobs() -> Iterator[Work]:
        for tried in this.search.tried():
            if tried.state == "begun":
                yield _job(this, tried)
        while len(this.search.tried()) < trials and time.monotonic() < end:
            proposed = this.search.propose(this.reject)
            this.table.save()
            yield _job(this, proposed)

    for trial, result, failure in spread(_run, jobs(), ray):
        _note_down(this, trial, result, failure)
        if ray is None:
            _measure(this, trial.number)
        _write(this)


def _run(work: Work) -> TrialResult:
    return work.run()


def _job(this: Exploration, tried: Tried) -> Work:
    latency = this.predicted(tried.fields)
    rivals = [
        other.facts["curve"]
        for other in this.search.tried()
        if other.state == "finished" and other.facts["predicted_ms"] <= latency
    ]
    return this.subject.trial(tried, latency, this.run_of(tried.number).resolve(), rivals)


def _note_down(this: Exploration, trial: Work, result: TrialResult | None, failure: str | None) -> None:
    name = f"{trial.number}: {this.subject.name(trial.fields)}"
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
    """The page and the tables, and files of the front."""
    metrics = find_task(CLASSIFICATION).yardstick.metrics
    rows = []
    for tried in this.search.tried():
        if tried.state in ("finished", "failed"):
            blank = new_row(
                f"{tried.number}: {this.subject.name(tried.fields)}",
                this.subject.family,
                0,
                f"runs/{tried.number:03d}",
                metrics,
            )
            found = {"status": "done", **tried.facts["row"]} if tried.state == "finished" else {"status": "failed"}
            rows.append(blank | found | this.search.notes(tried.number) | {"error": tried.facts.get("error")})
    front = _front(this)
    winner = _winner(this, front)
    composed = {tried.number: tried.fields for tried in front}
    this.subject.write(this.folder, composed, this.run_of(winner.number) if winner else None)
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
    cut = f", {stopped} of them stopped early" if stopped else ""
    lines = [
        f"{len(tried) + refused} {this.subject.noun} considered for {this.budget.text}: {refused} refused without "
        f"being built{f' ({why})' if why else ''}, {len(tried)} {this.subject.done}{cut}."
    ]
    winner = _winner(this, _front(this))
    if winner:
        slow = this.budget.exceeded("latency_ms", _latency(this, winner))
        lines += [
            f"Winner: {winner.number} ({this.subject.name(winner.fields)}), {winner.facts['row'][METRIC]:.1%}, "
            f"predicted {significant(winner.facts['predicted_ms'])} ms{f'; measured {slow}' if slow else ''}.",
            this.subject.advice(this.folder),
        ]
    return lines


def _default_name(place: str, settings: Mapping[str, Any]) -> str:
    """The same for the same command, so that it finds what it has begun."""
    told = hashlib.sha256(json.dumps([place, settings]).encode()).hexdigest()[:8]
    return f"explore-{Path(place).stem.replace(':', '-')}-{told}"


def _command(data: str | Path, options: Mapping[str, Any]) -> str:
    words = ["ommatid", "explore", str(data)]
    given = {name.replace("_", "-"): value for name, value in options.items() if value is not None}
    return shlex.join([*words, *(word for name, value in given.items() for word in (f"--{name}", str(value)))])
