"""optimize: the fastest form of a model on this machine that still gives its answers, found by measuring."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.deployment.forms import (
    Form,
    forms_of,
    largest_difference,
    machine_code_forms,
    own_forms,
    stored_openvino,
    tensors_of,
)
from ommatid.measuring.machine import describe_machine
from ommatid.measuring.measure import usable_device
from ommatid.measuring.timing import Call, alternate, quartiles, thread_count
from ommatid.nn.deploy import deployed_copy
from ommatid.runs.files import write_json

TOLERANCE = 0.03
"""Largest difference of outputs, as a fraction of their largest magnitude, that a faster form may show."""

ROUNDS, SECONDS = 15, 6.0
"""Timed rounds of the forms in turn, at most, and none begun after so long."""

WITHIN_REACH = 1.3
"""Times the fastest median after the first rounds: what is slower is not measured on."""

COMPILERS_REACH = 2.0
"""Times the fastest of all that the fastest form of PyTorch may take, and still be compiled."""

AS_FAST = 1.03
"""Times the fastest compiled form that its machine code may take, and be kept instead."""

AS_IT_CAME, DEPLOYED = "as it came", "deployed"


@dataclass(frozen=True)
class Trial:
    """One form of the model: milliseconds per call (median), the error as a fraction of the largest magnitude of the
    model's own outputs; or why it can't be had here."""

    form: str
    latency_ms: float | None
    error: float | None
    problem: str | None = None


@dataclass(frozen=True)
class Report:
    """What was tried, as it was measured, and the form that was kept, with the CPU threads that it runs with (None: as
    many as PyTorch has). The first trial is the model as it came."""

    chosen: str
    threads: int | None
    trials: tuple[Trial, ...]

    @property
    def gain(self) -> float:
        """How many times faster the chosen form is than the model as it came."""
        times = {trial.form: trial.latency_ms for trial in self.trials}
        before, after = times[self.trials[0].form], times[self.chosen]
        assert before is not None
        assert after is not None
        return before / after

    def __str__(self) -> str:
        lines = [f"{self.chosen}: {self.gain:.2f} times as fast as the model as it came"]
        for trial in self.trials:
            told = trial.problem or f"{trial.latency_ms:.1f} ms, error {trial.error:.1e}"
            lines.append(f"  {trial.form}: {told}")
        return "\n".join(lines)


class Optimized(nn.Module):
    """A model in its fastest form: the same inputs, and outputs of the same type. `report` says what was gained."""

    def __init__(self, model: nn.Module, report: Report) -> None:
        super().__init__()
        self.model = model
        self.report = report

    @torch.inference_mode()
    def forward(self, image: Tensor) -> Any:
        if self.report.threads is None:
            return self.model(image)
        with thread_count(self.report.threads):
            return self.model(image)


def optimize(
    model: nn.Module, example: Tensor, *, target: str = "cpu", tolerance: float = TOLERANCE, cache: Path | None = None
) -> Optimized:
    """The fastest form of `model` for inputs like `example` on this machine.

    Tried are the deployed form, channels-last weights, reduced precision where the processor computes in it, ONNX
    Runtime and OpenVINO where they are installed, PyTorch's compiler in the precision that is fastest without; the best
    of all is then tried as machine code of AOTInductor, and with one thread. They are measured in turns; of those whose
    outputs stay within `tolerance` of the model's own, the fastest is kept.

    Args:
        model: any of this library's, or any module of one tensor.
        example: (B, C, H, W), of the batch and size that the speed matters for. Other shapes work too, though some
            forms serve them no faster than the model itself does.
        target: "cpu" or "cuda".
        tolerance: largest difference of outputs, as a fraction of their largest magnitude.
        cache: the folder that remembers which form won, and keeps what took long to make; `~/.cache/ommatid/optimize`
            where None.

    Raises:
        ValueError: this machine has no such target.
    """
    device = usable_device(target)
    subject = copy.deepcopy(model).eval().requires_grad_(False).to(device)
    example = example.to(device)
    place = (cache or _cache_folder()) / f"{_fingerprint(subject, example, tolerance)}.json"
    forms = _forms(subject, example, place)
    report = _remembered(place)
    if report is None or report.chosen not in forms:
        report, best = _search(forms, example, tolerance)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, asdict(report))
        _forget_losers(place, report.chosen)
        return Optimized(best, report)
    return Optimized(forms[report.chosen](), report)


def _forms(model: nn.Module, example: Tensor, place: Path) -> dict[str, Form]:
    """Every form by name, the model as it came first, machine code last; what takes long to make, in files beside
    `place`."""
    deployed = deployed_copy(model)
    forms: dict[str, Form] = {AS_IT_CAME: lambda: model}
    forms |= {DEPLOYED if name == "eager" else name: make for name, make in forms_of(deployed, example).items()}
    forms |= own_forms(deployed, example, place)
    if example.device.type == "cpu":
        forms |= machine_code_forms(deployed, example, place.with_suffix(".pt2"))
    return forms


def _search(forms: dict[str, Form], example: Tensor, tolerance: float) -> tuple[Report, nn.Module]:
    """Measures in three rounds: what needs no compiler, the best of that compiled, the best of all in further ways."""
    with torch.inference_mode():
        expected = tensors_of(forms[AS_IT_CAME]()(example))
    plain = {name: make for name, make in forms.items() if "compiled" not in name and "AOTInductor" not in name}
    made, trials = _made(plain, example, tolerance, expected)
    race = _race({name: partial(form, example) for name, form in made.items()}, example.device)
    compiled, trials_left_out = _worth_compiling(forms, race)
    further, tried = _made(compiled, example, tolerance, expected)
    made, trials = made | further, trials | trials_left_out | tried
    race |= _beside(min(race, key=race.__getitem__), list(further), race, made, example)
    best = min(race, key=race.__getitem__)
    code = best.replace("compiled", "AOTInductor")
    if code != best and code in forms:
        further, tried = _made({code: forms[code]}, example, tolerance, expected)
        made, trials = made | further, trials | tried
        race |= _beside(best, list(further), race, made, example)
        if code in race and race[code] < AS_FAST * race[best]:
            best = code  # which is ready at once the next time
    threads = None
    if example.device.type == "cpu" and torch.get_num_threads() > 1 and not best.startswith(("OpenVINO", "ONNX")):
        single = f"{best}, 1 thread"
        race |= _beside(best, [single], race, made | {single: OnOneThread(made[best])}, example)
        threads = 1 if race[single] < race[best] else None
    trials |= {name: Trial(name, 1e3 * taken, trials.get(name, trials[best]).error) for name, taken in race.items()}
    return Report(best, threads, tuple(trials.values())), made[best]


def _worth_compiling(forms: dict[str, Form], race: dict[str, float]) -> tuple[dict[str, Form], dict[str, Trial]]:
    """Of the compiled forms those of the precision in which PyTorch is fastest without, unless even that is too slow;
    and what is said of the others. The compiler takes longer than all else."""
    counterparts = {name: _uncompiled(name) for name in forms if "compiled" in name}
    times = {name: race[name] for name in counterparts.values() if name in race}
    fastest = min(times, key=times.__getitem__, default=None)
    if fastest is not None and times[fastest] > COMPILERS_REACH * min(race.values()):
        fastest = None
    worth = {name: forms[name] for name, counterpart in counterparts.items() if counterpart == fastest}
    left_out = {
        name: Trial(name, None, None, f"not tried: too far behind as {counterpart!r}")
        for name, counterpart in counterparts.items()
        if name not in worth
    }
    return worth, left_out


def _uncompiled(name: str) -> str:
    """What a compiled form is without the compiler."""
    return name.removeprefix("compiled").partition(",")[0].strip() or DEPLOYED


def _beside(
    best: str, names: list[str], race: dict[str, float], made: dict[str, nn.Module], example: Tensor
) -> dict[str, float]:
    """Seconds of further forms. They are measured in turns with the best so far, and told on its scale: the machine may
    have become slower since."""
    if not names:
        return {}
    times = _race({name: partial(made[name], example) for name in (best, *names)}, example.device)
    return {name: race[best] * times[name] / times[best] for name in names}


def _made(
    forms: dict[str, Form], example: Tensor, tolerance: float, expected: list[Tensor]
) -> tuple[dict[str, nn.Module], dict[str, Trial]]:
    """The forms that can be had and answer as expected; and what is known of all."""
    made: dict[str, nn.Module] = {}
    trials: dict[str, Trial] = {}
    for name, make in forms.items():
        try:
            with torch.no_grad():
                form = make()
            with torch.inference_mode():
                error = largest_difference(form(example), expected)
        except Exception as problem:  # what can't be had here is no reason to fail: other forms remain
            reason = (str(problem).strip().splitlines() or [""])[0]
            trials[name] = Trial(name, None, None, f"{type(problem).__name__}: {reason}")
            continue
        trials[name] = Trial(name, None, error, None if error <= tolerance else f"error {error:.1e}: too large")
        if error <= tolerance:
            made[name] = form
    return made, trials


def _race(calls: dict[str, Call], device: torch.device) -> dict[str, float]:
    """Seconds of each call, measured in turns; those that have no chance are left behind after the first rounds."""
    with torch.inference_mode():
        few = alternate(list(calls.values()), device, rounds=3, seconds=SECONDS)
        times = {
            name: quartiles(list(column)).median for name, column in zip(calls, zip(*few, strict=True), strict=True)
        }
        close = [name for name in calls if times[name] <= WITHIN_REACH * min(times.values())]
        if len(close) == 1:
            return times
        more = alternate([calls[name] for name in close], device, rounds=ROUNDS, seconds=SECONDS)
    return times | {
        name: quartiles(list(column)).median for name, column in zip(close, zip(*more, strict=True), strict=True)
    }


class OnOneThread(nn.Module):
    """A model that works on one thread."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Any:
        with thread_count(1):
            return self.model(image)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ommatid" / "optimize"


def _fingerprint(model: nn.Module, example: Tensor, tolerance: float) -> str:
    """Changes with whatever may change the winner: architecture, weights, input, machine, versions."""
    weights = [[name, list(value.shape), float(value.double().sum())] for name, value in model.state_dict().items()]
    machine = {name: value for name, value in describe_machine().items() if name != "memory_gb"}
    told = [type(model).__name__, weights, list(example.shape), str(example.device), tolerance, machine]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _forget_losers(place: Path, chosen: str) -> None:
    """Conversions for OpenVINO that will not be opened again are large."""
    won = re.fullmatch(r"OpenVINO[^,]*(?:, (\d+) streams)?", chosen)
    kept = stored_openvino(place, int(won[1] or 1)) if won else None
    for path in place.parent.glob(f"{place.stem}-*.xml"):
        if path != kept:
            path.unlink()
            path.with_suffix(".bin").unlink()


def _remembered(place: Path) -> Report | None:
    """What an earlier call found out; None where there was none, or its file is no longer readable."""
    try:
        told = json.loads(place.read_text())
        return Report(told["chosen"], told["threads"], tuple(Trial(**trial) for trial in told["trials"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
