"""optimize: the fastest form of a model on this machine that still gives its answers, found by measuring."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.measuring.machine import describe_machine, instruction_sets
from ommatid.measuring.measure import usable_device
from ommatid.measuring.timing import quartiles, repeat
from ommatid.nn.deploy import deployed_copy
from ommatid.runs.files import write_json

TOLERANCE = 0.03
"""Largest difference of outputs, as a fraction of their largest magnitude, that a faster form may show."""

ROUNDS, SECONDS = 15, 4.0
"""Timed calls of each form, at most, and none begun after so long."""


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
    """What was tried, as it was measured, and the form that was kept. The first trial is the model as it came."""

    chosen: str
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
        return self.model(image)


class Autocast(nn.Module):
    """`model`, computing in `dtype` where that is safe; its outputs are float32 all the same."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.device_type = device.type
        self.dtype = dtype

    def forward(self, image: Tensor) -> Any:
        # Entered in here, so that it is part of what is compiled.
        with torch.autocast(self.device_type, self.dtype):
            return _as_float(self.model(image))


def optimize(
    model: nn.Module, example: Tensor, *, target: str = "cpu", tolerance: float = TOLERANCE, cache: Path | None = None
) -> Optimized:
    """The fastest form of `model` for inputs like `example` on this machine.

    Tried are the deployed form, reduced precision where the processor computes in it, and compilation, alone and
    together. Each is measured; of those whose outputs stay within `tolerance` of the model's own, the fastest is kept.

    Args:
        model: any of this library's, or any module of one tensor.
        example: (B, C, H, W), of the batch and size that the speed matters for.
        target: "cpu" or "cuda".
        tolerance: largest difference of outputs, as a fraction of their largest magnitude.
        cache: the folder that remembers which form won; `~/.cache/ommatid` where None.

    Raises:
        ValueError: this machine has no such target.
    """
    device = usable_device(target)
    subject = copy.deepcopy(model).eval().requires_grad_(False).to(device)
    example = example.to(device)
    forms = dict(_forms(subject, device))
    place = (cache or _cache_folder()) / f"{_fingerprint(subject, example, tolerance)}.json"
    report = _remembered(place)
    if report is None:
        report = _measured(forms, example, device, tolerance)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, asdict(report))
    return Optimized(forms[report.chosen](), report)


Form = Callable[[], nn.Module]


def _forms(model: nn.Module, device: torch.device) -> Iterator[tuple[str, Form]]:
    """Every form by name, the model as it came first."""
    yield "as it came", lambda: model
    yield "deployed", lambda: deployed_copy(model)
    yield "compiled", lambda: _compiled(deployed_copy(model))

    def reduced(dtype: torch.dtype) -> nn.Module:
        return Autocast(deployed_copy(model), device, dtype)

    for name in _precisions(device):
        dtype = getattr(torch, name)
        yield name, partial(reduced, dtype)
        yield f"compiled {name}", partial(lambda dtype: _compiled(reduced(dtype)), dtype)


def _precisions(device: torch.device) -> tuple[str, ...]:
    """Those below float32 that the device computes in, rather than imitates."""
    if device.type == "cpu":
        return ("bfloat16",) if "bf16" in instruction_sets() else ()
    return ("bfloat16", "float16")


def _compiled(model: nn.Module) -> nn.Module:
    # Freezing makes the weights constants of the compiled program, laid out as its products want them.
    model.compile(options={"freezing": True})
    return model


def _measured(forms: dict[str, Form], example: Tensor, device: torch.device, tolerance: float) -> Report:
    trials: list[Trial] = []
    with torch.inference_mode():
        expected = _tensors(next(iter(forms.values()))()(example))
        for name, make in forms.items():
            trials.append(_trial(name, make, example, expected, device))
            torch.compiler.reset()
    allowed = [trial for trial in trials if trial.error is not None and trial.error <= tolerance]
    return Report(min(allowed, key=lambda trial: trial.latency_ms or 0.0).form, tuple(trials))


def _trial(name: str, make: Form, example: Tensor, expected: list[Tensor], device: torch.device) -> Trial:
    try:
        form = make()
        answers = _tensors(form(example))
    except Exception as error:  # what can't be compiled here is no reason to fail: other forms remain
        return Trial(name, None, None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    errors = [
        float((answer - value).abs().max() / value.abs().max().clamp_min(1e-12))
        for answer, value in zip(answers, expected, strict=True)
    ]
    times = repeat(lambda: form(example), device, rounds=ROUNDS, seconds=SECONDS)
    return Trial(name, 1e3 * quartiles(times).median, max(errors))


def _tensors(answer: Any) -> list[Tensor]:
    """The tensors of an answer that is one, or a list of them, or a dictionary of them."""
    if isinstance(answer, Tensor):
        return [answer]
    return [tensor for part in (answer.values() if isinstance(answer, dict) else answer) for tensor in _tensors(part)]


def _as_float(answer: Any) -> Any:
    """The answer with its tensors in float32."""
    if isinstance(answer, Tensor):
        return answer.float() if answer.is_floating_point() else answer
    if isinstance(answer, dict):
        return {name: _as_float(part) for name, part in answer.items()}
    return type(answer)(_as_float(part) for part in answer)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ommatid" / "optimize"


def _fingerprint(model: nn.Module, example: Tensor, tolerance: float) -> str:
    """Changes with whatever may change the winner: architecture, weights, input, machine, versions."""
    weights = [[name, list(value.shape), float(value.double().sum())] for name, value in model.state_dict().items()]
    machine = {name: value for name, value in describe_machine().items() if name != "memory_gb"}
    told = [type(model).__name__, weights, list(example.shape), str(example.device), tolerance, machine]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _remembered(place: Path) -> Report | None:
    """What an earlier call found out; None where there was none, or its file is no longer readable."""
    try:
        told = json.loads(place.read_text())
        return Report(told["chosen"], tuple(Trial(**trial) for trial in told["trials"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
