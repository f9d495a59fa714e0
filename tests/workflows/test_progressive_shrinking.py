"""Super-networks trained by progressive shrinking, also when cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ommatid.data import calibration_images, open_data
from ommatid.models.backbones.once_for_all import OnceForAll
from ommatid.models.subnets import Setting
from ommatid.nn.recalibration import recalibrated
from ommatid.runs.run import Run
from ommatid.training.methods import find_method
from ommatid.training.methods.progressive_shrinking import ProgressiveShrinking
from ommatid.training.methods.shrinking import Shrinking
from ommatid.workflows.evaluate import evaluate
from ommatid.workflows.train import train

from .small import TINY_SUPERNET


@pytest.fixture
def settings(few_digits: Path, tmp_path: Path) -> dict[str, Any]:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"epochs": 3, "batch": 24, "lr": 3e-3, "ema": 0.9, "clip": 1.0}))
    return {
        "data": few_digits,
        "recipe": recipe,
        "size": 32,
        "progress": False,
        "out": tmp_path / "run",
        "model": "ofa_mbv3",
        "set": TINY_SUPERNET,
        "method": "progressive_shrinking[smallest=24]",
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """Every part that was chosen while the test ran, but for the largest."""
    seen: list[Setting] = []

    def activate(self: OnceForAll, setting: Setting, plain: Any = OnceForAll.activate) -> None:
        if self.training and setting != self.config.largest:
            seen.append(setting)
        plain(self, setting)

    monkeypatch.setattr(OnceForAll, "activate", activate)
    return seen


def test_a_killed_training_goes_on_with_the_same_sub_networks(
    settings: dict[str, Any], drawn: list[Setting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run.open(train(**settings).run)
    expected, drawn[:] = list(drawn), []
    assert len(set(expected)) > 5

    def step_then_cut(self: Shrinking, batch: Any, index: int, plain: Any = Shrinking.training_step) -> Any:
        if self.global_step == 5:
            raise KeyboardInterrupt
        return plain(self, batch, index)

    settings["out"] = tmp_path / "cut"
    with monkeypatch.context() as patched:
        patched.setattr(Shrinking, "training_step", step_then_cut)
        with pytest.raises(KeyboardInterrupt):
            train(**settings)
    drawn.clear()
    train(resume=settings["out"], progress=False)
    assert drawn == expected[-len(drawn) :]
    resumed = Run.open(settings["out"]).load_model(best=False).state_dict()
    for name, value in whole.load_model(best=False).state_dict().items():
        assert torch.equal(resumed[name], value), name


def test_the_run_is_the_largest_network_ready_to_use(settings: dict[str, Any]) -> None:
    result = train(**settings | {"method": "progressive_shrinking"})
    model = Run.open(result.run).load_model()
    assert isinstance(model, OnceForAll)
    assert model.setting == model.config.largest
    images = calibration_images(open_data(settings["data"], split=Run.open(result.run).split).train, 32)
    expected = recalibrated(model.extract(), images).state_dict()
    for name, value in model.extract().named_buffers():
        if name.endswith("batches_tracked"):
            continue
        torch.testing.assert_close(value, expected[name], msg=lambda told, name=name: f"{name}: {told}")
    assert 0 <= evaluate(result.run)["accuracy"] <= 1
    assert result.curve[-1]["lr"] < result.curve[0]["lr"]


def test_a_trained_full_network_is_where_shrinking_begins(settings: dict[str, Any], tmp_path: Path) -> None:
    full = train(**settings | {"method": None})
    more = settings | {"out": tmp_path / "more", "weights": full.run / "best.safetensors"}
    result = train(**more | {"method": "progressive_shrinking[full=0]", "epochs": 1})
    assert result.epochs == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "progressive_shrinking[full=0]"}, "more than 0 unless --weights"),
        ({"method": "progressive_shrinking[smallest=48]"}, "from 0 to the images' own side, 32"),
        ({"model": "pvt_v2_b0", "set": {}}, "PVTv2 has no sub-networks"),
        ({"compile": True}, "compile = True is not possible"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(
    settings: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(**settings | changes)
    assert not settings["out"].exists()


def test_sides_end_with_the_trainings_own() -> None:
    method = find_method("progressive_shrinking[smallest=130]")
    assert isinstance(method, ProgressiveShrinking)
    sides = method.sides(224)
    assert (sides[0], sides[-1]) == (132, 224)
    assert list(ProgressiveShrinking().sides(32)) == [32]
