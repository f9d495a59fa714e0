"""explore --supernet: parts of a trained super-network, judged as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ommatid.models.backbones.once_for_all import Subnet
from ommatid.runs.run import Run
from ommatid.workflows import subnet_trial
from ommatid.workflows.evaluate import evaluate
from ommatid.workflows.explore import explore
from ommatid.workflows.export import export
from ommatid.workflows.train import train

from .small import TINY_SUPERNET

pytest.importorskip("optuna", reason="Optuna is not installed (pip install 'ommatid[search]')")

SETTINGS: dict[str, Any] = {"budget": "latency<1s,macs<1G", "threads": 1, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def own_table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Costs measured in a test are not those of an idle machine: they must not stay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("ommatid.workflows.explore.CALIBRATING", 1)
        patch.setattr("ommatid.methods.composing.search.CANDIDATES", 100)
        patch.setattr("ommatid.measuring.part_costs.SECONDS", 0.01)
        patch.setattr("ommatid.measuring.part_costs.WHOLE_SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def supernet(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("supernet")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"epochs": 2, "batch": 24, "lr": 3e-3, "ema": 0.9, "clip": 1.0}))
    method = "progressive_shrinking[smallest=24]"
    fields = TINY_SUPERNET
    settings = {"recipe": recipe, "size": 32, "model": "ofa_mbv3", "set": fields, "method": method, "progress": False}
    return train(few_digits, out=folder / "run", **settings).run


@pytest.fixture(scope="module")
def finished(supernet: Path, few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("explore") / "out"
    explore(few_digits, supernet=supernet, trials=4, out=out, **SETTINGS)
    return out


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def test_each_part_is_judged_and_timed_and_no_two_are_alike(finished: Path) -> None:
    results = read(finished)
    rows = results["runs"]
    assert [row["status"] for row in rows] == ["done"] * 4
    assert all(row["latency_ms"] > 0 and row["macs"] and 0 <= row["accuracy"] <= 1 for row in rows)
    fields = [Run.open(finished / row["run"]).config for row in rows]
    assert len({json.dumps([config["set"], config["size"]]) for config in fields}) == 4
    assert "4 judged" in results["notes"][0]
    assert "weights" not in results["command"]


def test_the_winner_is_a_run_that_answers_as_it_was_judged(finished: Path, tmp_path: Path) -> None:
    winner = Run.open(finished / "winner")
    row = max(read(finished)["runs"], key=lambda row: (row["accuracy"], -row["latency_ms"]))
    assert evaluate(winner.path)["accuracy"] == row["accuracy"]
    assert isinstance(winner.load_model(), Subnet)
    export(winner.path, format="torch", out=tmp_path / "winner.pt2")  # checks the file's answers itself


def test_the_winner_can_be_tuned_further(finished: Path, few_digits: Path, tmp_path: Path) -> None:
    weights = finished / "winner" / "best.safetensors"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"epochs": 1, "batch": 24, "lr": 1e-4}))
    result = train(few_digits, weights=weights, recipe=recipe, out=tmp_path / "tuned", progress=False)
    assert isinstance(Run.open(result.run).load_model(), Subnet)


def test_cut_the_same_call_goes_on(
    finished: Path, supernet: Path, few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, judged = tmp_path / "out", []

    def cut_at_the_third(self: Any, plain: Any = subnet_trial.SubnetTrial.run) -> Any:
        judged.append(self.number)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return plain(self)

    monkeypatch.setattr(subnet_trial.SubnetTrial, "run", cut_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        explore(few_digits, supernet=supernet, trials=4, out=out, **SETTINGS)
    assert [row["status"] for row in read(out)["runs"]] == ["done", "done"]
    explore(few_digits, supernet=supernet, trials=4, out=out, **SETTINGS)
    assert judged == [0, 1, 2, 2, 3]
    assert [row["accuracy"] for row in read(out)["runs"]][:3] == [row["accuracy"] for row in read(finished)["runs"]][:3]


def test_batch_norms_are_those_of_training_images_alone(supernet: Path, few_digits: Path, tmp_path: Path) -> None:
    source = subnet_trial.Source.of(str(supernet), str(few_digits.resolve()))
    opened = source.open()
    fields = {
        "side": 32,
        "active_depths": [1] * 5,
        "active_kernels": [3] * 10,
        "active_expands": [3] * 10,
    }
    subnet_trial.SubnetTrial(0, fields, 1.0, tmp_path / "000", source).run()
    cut = Run.open(tmp_path / "000").load_model()
    inside = opened.model.extract()
    assert all(torch.equal(cut.get_parameter(name), value) for name, value in inside.named_parameters()), (
        "weights stay as they were trained"
    )
    norm = "stages.1.0.reduce.norm.running_mean"  # behind kernels and channels that the largest has more of
    assert not torch.equal(cut.get_buffer(norm), inside.get_buffer(norm))


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"mixers": "window", "epochs": 2}, "leave out epochs, mixers"),
        ({"budget": "macs<10"}, "none of 100 .* fits: .* by macs"),
        ({"supernet": "nowhere"}, "no run folder"),
    ],
)
def test_what_is_impossible_is_said_in_one_line(
    supernet: Path, few_digits: Path, tmp_path: Path, changes: dict[str, Any], refusal: str
) -> None:
    asked = {"supernet": supernet, "trials": 1, "out": tmp_path / "out", **SETTINGS} | changes
    with pytest.raises(ValueError, match=refusal):
        explore(few_digits, **asked)


def test_weights_that_changed_are_not_mixed_with_what_was_judged_before(
    finished: Path, supernet: Path, few_digits: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    results = read(out)
    results["settings"]["weights"] = "others"
    (out / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="was started with weights = 'others'"):
        explore(few_digits, supernet=supernet, trials=4, out=out, **SETTINGS)
