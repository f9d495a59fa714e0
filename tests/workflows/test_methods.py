"""Methods beyond the recipe: what they train, what they leave in the run, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ommatid.methods.ewa import RandomExperts, share_rate_at
from ommatid.runs.run import Run
from ommatid.training.methods import Method, find_method
from ommatid.training.methods.adversarial import Adversarial
from ommatid.training.methods.alternating import Alternating, Defence
from ommatid.training.methods.ewa import ExpertsAveraging
from ommatid.workflows.train import train

VIT = {"dim": 8, "depth": 2, "heads": 2, "patch_size": 8, "image_size": 16}
ADV_MOE = {"depths": [1], "ratio": 0.125, "router_depths": [1]}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"epochs": 2, "batch": 24, "lr": 3e-3, "ema": 0.9, "clip": 1.0}))
    return path


@pytest.fixture
def settings(few_digits: Path, recipe: Path, tmp_path: Path) -> dict[str, Any]:
    return {"data": few_digits, "recipe": recipe, "size": 16, "progress": False, "out": tmp_path / "run"}


def test_words_say_the_method() -> None:
    assert type(find_method(None)) is Method
    assert find_method("ewa[experts=8,share_rate=0]") == ExpertsAveraging(experts=8, share_rate=0.0)
    assert find_method("adversarial") == Adversarial()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ewe", "did you mean 'ewa'"),
        ("ewa[expert=3]", "did you mean 'experts'"),
        ("ewa[experts=many]", "experts = 'many' is not possible: allowed is an integer"),
        ("ewa[", "is not a method"),
    ],
)
def test_other_words_are_refused(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_method(words)


def test_experts_end_as_the_ordinary_model_also_when_cut(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings |= {"model": "vit_tiny", "set": VIT, "method": "ewa[experts=3,every=1]"}
    whole = Run.open(train(**settings).run).load_model(best=False)
    assert not any(isinstance(module, RandomExperts) for module in whole.modules())

    def cut_in_the_last_step(step: int, steps: int, share_rate: float) -> float:
        if step == steps - 1:
            raise KeyboardInterrupt
        return share_rate_at(step, steps, share_rate)

    settings["out"] = tmp_path / "cut"
    with monkeypatch.context() as patched:
        patched.setattr("ommatid.training.methods.ewa.share_rate_at", cut_in_the_last_step)
        with pytest.raises(KeyboardInterrupt):
            train(**settings)
    train(resume=settings["out"], progress=False)
    for mine, theirs in zip(
        Run.open(settings["out"]).load_model(best=False).parameters(), whole.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("model", "fields", "kind"), [("vit_tiny", VIT, Defence), ("adv_moe_resnet18", ADV_MOE, Alternating)]
)
def test_against_attacks_models_learn(
    model: str, fields: dict[str, Any], kind: type, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    for name in ("training_step", "loss"):
        if hasattr(kind, name) and (kind is Alternating) == (name == "training_step"):
            plain = getattr(kind, name)
            monkeypatch.setattr(kind, name, lambda self, *a, plain=plain: used.append(kind) or plain(self, *a))
    result = train(**settings, model=model, set=fields, method="adversarial[steps=1]")
    assert len(used) == 6
    assert result.curve[1]["train_loss"] < result.curve[0]["train_loss"]


def test_what_a_method_cannot_do_is_told_before_anything_is_written(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="PVTv2 has no plain MLP"):
        train(**settings | {"size": 32}, model="pvt_v2_b0", method="ewa")
    with pytest.raises(ValueError, match=r"share_rate = 0.9 .* from 0 to 0.75"):
        train(**settings, model="vit_tiny", method="ewa[share_rate=0.9]")
    with pytest.raises(ValueError, match=r"devices = 2 .* 1 with the method adversarial"):
        train(**settings, model="vit_tiny", method="adversarial", devices=2)
    assert not settings["out"].exists()
