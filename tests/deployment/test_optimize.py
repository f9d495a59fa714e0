"""optimize: the fastest form that agrees, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ommatid.deployment import forms
from ommatid.deployment import optimize as module
from ommatid.deployment.openvino import converted_openvino
from ommatid.deployment.optimize import optimize


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(image)).relu().mean((2, 3)))


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, 3, 16, 16)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUNDS", 3)
    monkeypatch.setattr(forms, "reduced_precisions", lambda device: (torch.bfloat16,))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler, no other runtime."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no compiler here\nsecond line")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(forms, "find_spec", lambda package: None)


@pytest.mark.slow
def test_the_fastest_that_agrees_is_kept(image: Tensor, tmp_path: Path) -> None:
    model = Small().train()
    fast = optimize(model, image, cache=tmp_path)
    trials = {trial.form: trial for trial in fast.report.trials}
    assert model.training, "the model itself is left as it was"
    expected = model.eval()(image)
    torch.testing.assert_close(fast(image), expected, rtol=0, atol=0.03 * expected.abs().max().item())
    plain = {"as it came", "deployed", "channels-last", "bfloat16", "bfloat16 weights"}
    assert {name for name in plain if trials[name].problem} == set()
    assert trials["as it came"].error == 0
    assert trials["bfloat16"].error > 1e-4
    assert fast(torch.rand(3, 3, 20, 16)).shape == (3, 5), "other shapes are served too"


@pytest.mark.parametrize(
    ("fastest", "compiled"),
    [
        ("deployed", {"compiled"}),
        ("bfloat16", {"compiled bfloat16"}),
        ("bfloat16 weights", {"compiled bfloat16 weights", "compiled bfloat16 weights, open attention"}),
    ],
)
def test_only_the_fastest_precision_is_compiled(
    fastest: str, compiled: set[str], image: Tensor, monkeypatch: pytest.MonkeyPatch, no_compiler: None, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_race", lambda calls, device: {name: 1.0 + (name != fastest) for name in calls})
    report = optimize(Small(), image, cache=tmp_path).report
    problems = {trial.form: trial.problem for trial in report.trials if "compiled" in trial.form}
    assert {name for name, problem in problems.items() if problem == "RuntimeError: no compiler here"} == compiled
    assert all("not tried" in (problems[name] or "") for name in problems.keys() - compiled)


def test_nothing_is_compiled_where_another_runtime_is_far_ahead(
    image: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="the extra `export` is not installed")
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: pytest.fail("it compiled"))
    monkeypatch.setattr(module, "_race", lambda calls, device: {n: 1.0 if n == "OpenVINO" else 2.5 for n in calls})
    assert optimize(Small(), image, cache=tmp_path).report.chosen == "OpenVINO"


@pytest.mark.parametrize("name", ["ONNX Runtime", "OpenVINO"])
def test_other_runtimes_answer_as_the_model_does_for_every_shape(name: str, image: Tensor) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    model = Small().eval().requires_grad_(False)
    form = forms.forms_of(model, image)[name]()
    for other in (image, torch.rand(3, 3, 20, 16)):
        torch.testing.assert_close(form(other), model(other), rtol=1e-3, atol=1e-4)


def test_no_form_outside_the_tolerance_is_kept(image: Tensor, no_compiler: None, tmp_path: Path) -> None:
    report = optimize(Small(), image, tolerance=1e-5, cache=tmp_path).report
    assert report.chosen in ("as it came", "deployed", "channels-last")
    assert "too large" in next(trial.problem for trial in report.trials if trial.form == "bfloat16")


def test_what_cannot_be_compiled_is_said_and_passed_over(image: Tensor, no_compiler: None, tmp_path: Path) -> None:
    report = optimize(Small(), image, cache=tmp_path).report
    problems = [trial.problem for trial in report.trials]
    assert "RuntimeError: no compiler here" in problems
    assert "no compiler here" in str(report)
    assert report.gain > 0


def test_an_answer_of_several_tensors_keeps_its_form(image: Tensor, no_compiler: None, tmp_path: Path) -> None:
    class Several(Small):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"logits": super().forward(image), "image": image}

    fast = optimize(Several(), image, cache=tmp_path)
    assert fast(image).keys() == {"logits", "image"}


def test_the_winner_is_remembered_for_the_same_model_input_and_machine(
    image: Tensor, monkeypatch: pytest.MonkeyPatch, no_compiler: None, tmp_path: Path
) -> None:
    model = Small()
    first = optimize(model, image, cache=tmp_path).report
    monkeypatch.setattr(module, "alternate", lambda *args, **kwargs: pytest.fail("it measured again"))
    assert optimize(model, image, cache=tmp_path).report == first


def test_a_spoilt_memory_is_measured_anew(image: Tensor, no_compiler: None, tmp_path: Path) -> None:
    model = Small()
    optimize(model, image, cache=tmp_path)
    (place,) = tmp_path.iterdir()
    place.write_text("{")
    assert optimize(model, image, cache=tmp_path).report.trials


def test_a_machine_without_the_target_says_so(image: Tensor) -> None:
    with pytest.raises(ValueError, match="abacus"):
        optimize(Small(), image, target="abacus")


def test_what_won_by_openvino_is_converted_once(image: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `export` is not installed")
    converted = []

    def convert(program: object) -> object:
        converted.append(program)
        return converted_openvino(program)

    monkeypatch.setattr(forms, "converted_openvino", convert)
    monkeypatch.setattr(forms, "find_spec", lambda package: package == "openvino" or None)
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: 1 / 0)
    monkeypatch.setattr(module, "_race", lambda calls, device: {name: 1 + (name != "OpenVINO") for name in calls})
    model = Small().eval()
    first = optimize(model, image, cache=tmp_path)
    conversions = len(converted)
    second = optimize(model, image, cache=tmp_path)
    assert first.report == second.report
    assert first.report.chosen == "OpenVINO"
    assert conversions == len(converted) > 0, "the second call opens the file"
    assert len(list(tmp_path.glob("*.xml"))) == len(list(tmp_path.glob("*.bin"))) == 1, "losers are not kept"
    torch.testing.assert_close(second(image), model(image), rtol=1e-4, atol=1e-5)
