"""explore: the front it finds, and that no training is lost however it was cut."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import ommatid
from ommatid.training.model_spec import parse_model
from ommatid.workflows import composition_trial
from ommatid.workflows.explore import explore

from .small import environment, photographs

pytest.importorskip("optuna", reason="Optuna is not installed (pip install 'ommatid[search]')")

SETTINGS: dict[str, Any] = {
    "budget": "latency<1s,params<200k",
    "mixers": "depthwise_conv,max_pool",
    "channel_mixers": "mlp",
    "epochs": 2,
    "batch": 6,
    "size": 32,
    "threads": 1,
    "progress": False,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "photographs")


@pytest.fixture(scope="module", autouse=True)
def own_table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Costs measured in a test are not those of an idle machine: they must not stay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("ommatid.workflows.explore.CALIBRATING", 1)
        patch.setattr("ommatid.methods.composing.search.CANDIDATES", 100)
        patch.setattr("ommatid.workflows.composition_trial.MARGIN", 1.0)  # of some photographs all are level
        patch.setattr("ommatid.measuring.part_costs.SECONDS", 0.01)
        patch.setattr("ommatid.measuring.part_costs.WHOLE_SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("explore") / "out"
    explore(data, trials=2, out=out, **SETTINGS)
    return out


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def test_the_page_has_a_row_for_each_composition_and_says_what_was_refused(finished: Path) -> None:
    results = read(finished)
    assert [row["status"] for row in results["runs"]] == ["done", "done"]
    assert all(row["latency_ms"] > 0 and row["accuracy"] is not None for row in results["runs"])
    assert "compositions considered for latency<1s,params<200k" in results["notes"][0]
    assert "by parameters" in results["notes"][0]
    assert html.escape(results["notes"][0]) in (finished / "report.html").read_text()


def test_the_front_and_the_winner_are_ready_to_use(finished: Path, tmp_path: Path) -> None:
    files = sorted((finished / "compositions").glob("*.yaml"))
    assert files
    spec = parse_model(str(files[0]))
    model = ommatid.create_model(spec.name, image_size=32, num_classes=3, **spec.settings)
    assert sum(parameter.numel() for parameter in model.parameters()) < 200e3
    result = ommatid.train(config=finished / "winner.yaml", epochs=1, out=tmp_path / "longer", progress=False)
    assert result.epochs == 1


def test_finished_work_is_not_repeated_and_more_is_added(
    finished: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "copy"))
    trained = []

    def counted(*args: Any, **settings: Any) -> Any:
        trained.append(settings.get("out"))
        return ommatid.train(*args, **settings)

    monkeypatch.setattr(composition_trial, "train", counted)
    explore(data, trials=2, out=out, **SETTINGS)
    assert trained == []
    explore(data, trials=3, out=out, **SETTINGS)
    assert [path.name for path in trained] == ["002"]
    assert len(read(out)["runs"]) == 3


def test_other_settings_in_the_same_folder_are_refused(finished: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="was started with epochs = 2, now it is 3"):
        explore(data, trials=2, out=finished, **SETTINGS | {"epochs": 3})


def test_what_is_clearly_worse_at_the_same_speed_is_given_up(data: Path, tmp_path: Path) -> None:
    rival = ({"epoch": 1, "val_accuracy": 2.5},)
    fields = {"dims": [16], "depths": [1], "mixer": ["depthwise_conv"]}
    training = {"data": data, "recipe": "quick", "epochs": 2, "size": 32, "batch": 6}
    trial = composition_trial.Trial(0, fields, 1.0, tmp_path / "000", training, (rival,))
    result = trial.run()
    assert result.stopped
    assert len(result.curve) == 1


def test_killed_while_it_trains_the_same_command_loses_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = (
        "import ommatid.workflows.explore as e; from pathlib import Path; e.CALIBRATING = 1;"
        "import ommatid.workflows.composition_trial as t; t.MARGIN = 1.0;"
        f"e.explore(Path({str(data)!r}), trials=3, out=Path({str(out)!r}), **{SETTINGS!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", command], env=environment())
    deadline = time.monotonic() + 120
    while not (out / "runs" / "001" / "config.yaml").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    kept = read(out)["runs"]
    assert [row["status"] for row in kept] == ["done"]
    explore(data, trials=3, out=out, **SETTINGS)
    rows = read(out)["runs"]
    assert len(rows) == 3
    assert rows[0]["accuracy"] == kept[0]["accuracy"]
    assert rows[0]["train_seconds"] == kept[0]["train_seconds"], "trained again"
    assert all(yaml.safe_load((out / row["run"] / "config.yaml").read_text())["model"] == "pyramid" for row in rows)


def test_two_workers_train_side_by_side(data: Path, tmp_path: Path, two_workers: str) -> None:
    explore(data, trials=2, out=tmp_path / "out", ray=two_workers, **SETTINGS)
    rows = read(tmp_path / "out")["runs"]
    assert [row["status"] for row in rows] == ["done", "done"]
    assert all(row["latency_ms"] for row in rows), "measured here, when all are trained"


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"budget": "latancy<5ms"}, "did you mean 'latency'"),
        ({"mixers": "windw"}, "did you mean 'window'"),
        ({"trials": 0}, "trials = 0 is not possible"),
        ({"budget": "params<10"}, "none of 100 compositions fits: .* by parameters"),
    ],
)
def test_what_is_impossible_is_said_in_one_line(
    data: Path, tmp_path: Path, changes: dict[str, Any], refusal: str
) -> None:
    with pytest.raises(ValueError, match=refusal):
        explore(data, out=tmp_path / "out", **SETTINGS | {"trials": 1} | changes)
