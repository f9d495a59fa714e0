"""The search itself: an Optuna study in an SQLite file, which proposes compositions and remembers what came of them.

Two objectives, accuracy and latency, by the multi-objective tree-structured Parzen estimator (Ozaki et al., 2022,
doi 10.1613/jair.1.13188). Candidates are drawn in memory and refused by their predicted costs, so that the file holds
only what was trained.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ommatid.methods.composing.space import Chooser

CANDIDATES = 2000
"""Refused in a row before a search gives up."""

STARTUP = 10
"""Compositions drawn at random before the estimator chooses."""

Reject = Callable[[dict[str, Any]], str | None]


class Space(Protocol):
    """What is chosen from."""

    def choose(self, trial: Chooser) -> dict[str, Any]:
        """The fields of a candidate, JSON-like."""


@dataclass(frozen=True)
class Tried:
    """A composition that was trained: its number, the fields of its config, and what is known of it.

    state: finished, stopped (early), failed, or begun. facts: JSON-like; whoever trains it decides what.
    """

    number: int
    state: str
    fields: dict[str, Any]
    facts: dict[str, Any]


class Search:
    """A study in a file; one process works on it at a time.

    Raises:
        ValueError: Optuna is not installed, or the file is not of a search.
    """

    def __init__(self, path: Path, space: Space, *, seed: int) -> None:
        self.optuna = _optuna()
        self.space = space
        self.seed = seed
        storage = f"sqlite:///{path.resolve()}"
        try:
            self.study = self.optuna.create_study(
                storage=storage, study_name="compositions", load_if_exists=True, directions=("maximize", "minimize")
            )
        except Exception as error:  # of SQLAlchemy's many
            raise ValueError(f"{path} cannot be used as the file of a search: {type(error).__name__}") from None

    @staticmethod
    def drawn(space: Space, reject: Reject, count: int, *, seed: int) -> Iterator[dict[str, Any]]:
        """Fields of `count` compositions drawn at random; of fewer where too many in a row are rejected."""
        sampler = _optuna().samplers.RandomSampler(seed=seed)
        study, refused = _optuna().create_study(sampler=sampler), 0
        while count and refused < CANDIDATES:
            fields = json.loads(json.dumps(space.choose(study.ask())))
            if reject(fields) is None:
                count, refused = count - 1, 0
                yield fields
            else:
                refused += 1

    def tried(self) -> list[Tried]:
        """All compositions, by number."""
        words = {"COMPLETE": "finished", "PRUNED": "stopped", "FAIL": "failed"}
        return [
            Tried(trial.number, words.get(trial.state.name, "begun"), trial.user_attrs["fields"], trial.user_attrs)
            for trial in self.study.get_trials(deepcopy=False)
            if "fields" in trial.user_attrs
        ]

    def propose(self, reject: Reject) -> Tried:
        """A new composition, written down as begun.

        Args:
            reject: says in a word why a candidate is not worth training; None where it is.

        Raises:
            ValueError: none of CANDIDATES in a row was worth it; says why most were not.
        """
        known = {_key(tried.fields) for tried in self.tried()}
        reasons: Counter[str] = Counter()
        for params, fields in self._candidates():
            reason = "known" if _key(fields) in known else reject(fields)
            if reason is None:
                self._count(reasons)
                return self._begun(params, fields)
            reasons[reason] += 1
            if reasons.total() == CANDIDATES:
                self._count(reasons)
                told = ", ".join(f"{count} by {why}" for why, count in reasons.most_common(3))
                raise ValueError(f"none of {CANDIDATES} compositions fits: {told}; allow more in the budget")
        raise AssertionError("candidates never end")

    def finish(self, number: int, accuracy: float, latency_ms: float, facts: Mapping[str, Any]) -> None:
        self._note(number, facts)
        self.study.tell(number, (accuracy, latency_ms))

    def stop(self, number: int, facts: Mapping[str, Any]) -> None:
        """It was not worth training to the end."""
        self._note(number, facts)
        self.study.tell(number, state=self.optuna.trial.TrialState.PRUNED)

    def fail(self, number: int, why: str) -> None:
        self._note(number, {"error": why})
        self.study.tell(number, state=self.optuna.trial.TrialState.FAIL)

    @property
    def rejected(self) -> dict[str, int]:
        """How many candidates were refused, by the reason."""
        return self.study.user_attrs.get("rejected", {})

    def note(self, number: int, facts: Mapping[str, Any]) -> None:
        """Adds to what is known of a composition, also of a finished one."""
        kept = self.study.user_attrs.get("notes", {})
        self.study.set_user_attr("notes", kept | {str(number): kept.get(str(number), {}) | dict(facts)})

    def notes(self, number: int) -> dict[str, Any]:
        return self.study.user_attrs.get("notes", {}).get(str(number), {})

    def _candidates(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """(Optuna's parameters, fields of a config), from what has come of the finished compositions."""
        finished = self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.COMPLETE,))
        sampler = self.optuna.samplers.TPESampler(seed=self.seed + len(self.study.trials), n_startup_trials=STARTUP)
        scout = self.optuna.create_study(directions=("maximize", "minimize"), sampler=sampler)
        scout.add_trials(finished)
        while True:
            trial = scout.ask()
            fields = self.space.choose(trial)
            yield trial.params, json.loads(json.dumps(fields))
            scout.tell(trial, state=self.optuna.trial.TrialState.FAIL)

    def _begun(self, params: dict[str, Any], fields: dict[str, Any]) -> Tried:
        self.study.enqueue_trial(params)
        trial = self.study.ask()
        self.space.choose(trial)
        trial.set_user_attr("fields", fields)
        return Tried(trial.number, "begun", fields, {"fields": fields})

    def _note(self, number: int, facts: Mapping[str, Any]) -> None:
        frozen = next(trial for trial in self.study.get_trials(deepcopy=False) if trial.number == number)
        trial = self.optuna.trial.Trial(self.study, frozen._trial_id)
        for name, value in facts.items():
            trial.set_user_attr(name, value)

    def _count(self, reasons: Counter[str]) -> None:
        self.study.set_user_attr("rejected", dict(Counter(self.rejected) + reasons))


def _key(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ValueError("a search needs Optuna: pip install 'ommatid[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
