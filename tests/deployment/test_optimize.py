"""optimize: the fastest form that agrees, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ommatid.deployment import optimize as module
from ommatid.deployment.optimize import optimize


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(image)).relu().mean((2, 3)))


class Unwieldy(Small):
    """Can't be compiled."""

    def compile(self, *args: object, **kwargs: object) -> None:
        raise RuntimeError("no compiler here\nsecond line")


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, 3, 16, 16)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUNDS", 3)


def test_the_answers_stay_and_the_fastest_that_agrees_is_kept(image: Tensor, tmp_path: Path) -> None:
    model = Small().train()
    fast = optimize(model, image, cache=tmp_path)
    trials = {trial.form: trial for trial in fast.report.trials}
    assert model.training, "the model itself is left as it was"
    torch.testing.assert_close(fast(image), model.eval()(image), rtol=0, atol=0.03 * model(image).abs().max().item())
    agreeing = [trial.latency_ms for trial in trials.values() if trial.error is not None and trial.error <= 0.03]
    assert trials[fast.report.chosen].latency_ms == min(agreeing)
    assert trials["as it came"].error == 0
    assert trials["compiled"].problem is None


def test_reduced_precision_is_what_is_timed(image: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_precisions", lambda device: ("bfloat16",))
    errors = {trial.form: trial.error for trial in optimize(Small(), image, cache=tmp_path).report.trials}
    assert errors["bfloat16"] > 1e-4
    assert errors["compiled bfloat16"] > 1e-4
    assert errors["compiled"] < 1e-4


def test_no_form_outside_the_tolerance_is_kept(image: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_precisions", lambda device: ("bfloat16",))
    report = optimize(Unwieldy(), image, tolerance=1e-5, cache=tmp_path).report
    assert report.chosen in ("as it came", "deployed")


def test_what_cannot_be_compiled_is_said_and_passed_over(image: Tensor, tmp_path: Path) -> None:
    report = optimize(Unwieldy(), image, cache=tmp_path).report
    problems = {trial.form: trial.problem for trial in report.trials}
    assert problems["compiled"] == "RuntimeError: no compiler here"
    assert "no compiler here" in str(report)
    assert report.gain > 0


def test_the_winner_is_remembered_for_the_same_model_input_and_machine(
    image: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = Unwieldy()
    first = optimize(model, image, cache=tmp_path).report
    monkeypatch.setattr(module, "repeat", lambda *args, **kwargs: pytest.fail("it measured again"))
    assert optimize(model, image, cache=tmp_path).report == first


def test_a_spoilt_memory_is_measured_anew(image: Tensor, tmp_path: Path) -> None:
    model = Unwieldy()
    optimize(model, image, cache=tmp_path)
    (place,) = tmp_path.iterdir()
    place.write_text("{")
    assert optimize(model, image, cache=tmp_path).report.trials


def test_a_machine_without_the_target_says_so(image: Tensor) -> None:
    with pytest.raises(ValueError, match="abacus"):
        optimize(Small(), image, target="abacus")
