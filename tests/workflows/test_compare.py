"""compare: the report, and that no work is done twice however it was cut."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ommatid.runs.alone import alone_in
from ommatid.runs.run import Run
from ommatid.training.model_spec import split_models
from ommatid.workflows import compare as module
from ommatid.workflows.compare import compare

from .small import TINIER_WORD, TINY_WORD, environment, photographs

SETTINGS: dict[str, Any] = {"epochs": 1, "batch": 6, "size": 32, "recipe": "quick", "progress": False}
MISTYPED = "swin_tinny"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "photographs")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two models over two seeds, with a third that does not exist."""
    out = tmp_path_factory.mktemp("compare") / "out"
    compare(data, [TINY_WORD, MISTYPED, TINIER_WORD], seeds=2, out=out, **SETTINGS)
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **settings: object) -> None:
        raise AssertionError("trained although it was finished")

    monkeypatch.setattr(module, "train", refuse)


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def edit(out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    results = read(out)
    for row in results["runs"]:
        change(row)
    (out / "results.json").write_text(json.dumps(results))


def again(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    compare(data, [TINY_WORD, TINIER_WORD], out=out, **({"seeds": 2} | SETTINGS | changes))
    return read(out)


def test_every_run_is_trained_and_measured(finished: Path) -> None:
    rows = [row for row in read(finished)["runs"] if row["status"] == "done"]
    assert [(row["model"], row["seed"]) for row in rows] == [
        (TINY_WORD, 0),
        (TINIER_WORD, 0),
        (TINY_WORD, 1),
        (TINIER_WORD, 1),
    ]
    for row in rows:
        assert 0 <= row["accuracy"] <= row["top5"] <= 1
        assert row["latency_spread_ms"][0] <= row["latency_ms"] <= row["latency_spread_ms"][1]
        assert min(row[name] for name in ("throughput", "memory_mb", "parameters", "macs", "size_mb")) > 0
        assert len(row["curve"]) == 1
        assert (finished / row["run"] / "best.safetensors").is_file()
    assert rows[0]["parameters"] > rows[1]["parameters"]


def test_speed_is_measured_once_per_model_and_accuracy_spread_over_seeds(finished: Path) -> None:
    first, _, second, _ = (row for row in read(finished)["runs"] if row["status"] == "done")
    assert first["latency_ms"] == second["latency_ms"]
    spread = statistics.stdev([first["accuracy"], second["accuracy"]])
    assert first["accuracy_std"] == second["accuracy_std"] == pytest.approx(spread)


def test_a_mistyped_model_is_reported_with_a_suggestion(finished: Path) -> None:
    (failed,) = (row for row in read(finished)["runs"] if row["status"] == "failed")
    assert failed["model"] == MISTYPED
    assert "swin_tiny" in failed["error"]
    assert "did you mean" in (finished / "report.html").read_text()


def test_a_comparison_at_work_is_left_alone(copy: Path, data: Path) -> None:
    before = (copy / "results.json").read_bytes()
    with alone_in(copy), pytest.raises(ValueError, match=f"another process is at work in {copy}"):
        again(data, copy, seeds=3)
    assert (copy / "results.json").read_bytes() == before


def test_table_and_page(finished: Path) -> None:
    with (finished / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["failed", "done", "done", "done", "done"]
    links: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            links.extend(value for name, value in attributes if tag == "a" and name == "href" and value)

    Links().feed((finished / "report.html").read_text())
    runs = [link for link in links if link.startswith("runs/")]
    assert len(runs) == 4
    assert all((finished / run / "config.yaml").is_file() for run in runs)


def test_the_command_on_the_page_says_it_all(finished: Path, data: Path) -> None:
    words = shlex.split(read(finished)["command"])
    assert words[:3] == ["ommatid", "compare", str(data)]
    told = dict(zip(words[3::2], words[4::2], strict=True))
    assert split_models(told["--models"]) == [TINY_WORD, MISTYPED, TINIER_WORD]
    assert (told["--seeds"], told["--epochs"], told["--recipe"]) == ("2", "1", "quick")


@pytest.mark.usefixtures("no_training")
def test_finished_work_is_not_repeated(copy: Path, data: Path) -> None:
    before = read(copy)["runs"]
    after = again(data, copy)["runs"]
    assert after == [row for row in before if row["status"] == "done"]


@pytest.mark.usefixtures("no_training")
def test_a_run_that_finished_just_before_the_cut_is_read(copy: Path, data: Path) -> None:
    before = {(row["model"], row["seed"]): row for row in read(copy)["runs"]}
    blank: dict[str, Any] = {"status": "pending", "accuracy": None, "train_seconds": None, "curve": []}
    edit(copy, lambda row: row.update(blank) if row["seed"] == 1 and row["status"] == "done" else None)
    for row in again(data, copy)["runs"]:
        assert row == before[row["model"], row["seed"]]


@pytest.mark.usefixtures("no_training")
def test_what_was_trained_but_not_measured_is_measured(copy: Path, data: Path) -> None:
    edit(copy, lambda row: row.update(latency_ms=None, status="pending") if row["status"] == "done" else None)
    rows = again(data, copy)["runs"]
    assert all(row["latency_ms"] > 0 and row["status"] == "done" for row in rows)


def test_a_run_cut_between_its_last_epoch_and_its_end(copy: Path, data: Path) -> None:
    before = read(copy)["runs"]
    edit(copy, lambda row: row.update(status="pending", accuracy=None) if row["run"].endswith("seed1") else None)
    for result in (copy / "runs").glob("*seed1/result.json"):
        result.unlink()
    after = again(data, copy)["runs"]
    assert [row["accuracy"] for row in after] == [row["accuracy"] for row in before if row["status"] == "done"]
    assert [len(row["curve"]) for row in after] == [1, 1, 1, 1]


def test_a_folder_cut_while_it_was_laid_out_is_started_anew(copy: Path, data: Path) -> None:
    edit(copy, lambda row: row.update(status="pending", accuracy=None) if row["run"].endswith("seed1") else None)
    folders = sorted((copy / "runs").glob("*seed1"))
    for folder in folders:
        for file in ("config.yaml", "result.json", "best.safetensors"):
            (folder / file).unlink()
    again(data, copy)
    assert all((folder / "best.safetensors").is_file() for folder in folders)


def test_models_and_seeds_can_be_added(copy: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    train = module.train

    def noted(*words: Any, **rest: Any) -> object:
        trained.append(rest["out"].name)
        return train(*words, **rest)

    monkeypatch.setattr(module, "train", noted)
    compare(data, [TINIER_WORD, "vit[dim=8,depth=1,heads=1,patch_size=16]"], seeds=[0, 7], out=copy, **SETTINGS)
    rows = read(copy)["runs"]
    assert len(trained) == 3
    assert sum(name.startswith("vit") for name in trained) == 2
    assert len([row for row in rows if row["status"] == "done"]) == 7
    assert MISTYPED not in {row["model"] for row in rows}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": 2}, "epochs = 1, now it is 2"),
        ({"batch": 4}, "batch = 6, now it is 4"),
        ({"size": 48}, "size = 32, now it is 48"),
        ({"recipe": "default"}, "recipe = 'quick', now it is 'default'"),
        ({"threads": 1}, "threads = None, now it is 1"),
        ({"set": {"drop_path_rate": 0.1}}, "set = {}, now it is {'drop_path_rate': 0.1}"),
    ],
)
def test_other_settings_in_the_same_folder(copy: Path, data: Path, changes: dict[str, Any], named: str) -> None:
    before = (copy / "results.json").read_bytes()
    with pytest.raises(ValueError, match=named):
        again(data, copy, **changes)
    assert (copy / "results.json").read_bytes() == before


def test_other_images_in_the_same_folder(copy: Path, data: Path, tmp_path: Path) -> None:
    fewer = photographs(tmp_path / "fewer", train=5)
    with pytest.raises(ValueError, match="other images or classes"):
        again(fewer, copy)


def test_a_model_that_fails_does_not_cost_the_others_their_turn(data: Path, tmp_path: Path) -> None:
    # At 16 pixels ConvNeXt has no cell left in its last stage.
    models = ["convnext[dims=[4,4,4,4],depths=[1,1,1,1]]", "dinat[dims=[4,8],depths=[1,1],heads=[1,1],kernel_size=3]"]
    compare(data, models, out=tmp_path / "out", **(SETTINGS | {"size": 16}))
    failed, done = read(tmp_path / "out")["runs"]
    assert (failed["status"], done["status"]) == ("failed", "done")
    assert "size = 16 is not possible" in failed["error"]


def test_when_every_model_fails_it_is_an_error_and_nothing_stands_in_the_way(data: Path, tmp_path: Path) -> None:
    word = "convnext[dims=[4,4,4,4],depths=[1,1,1,1]]"
    with pytest.raises(ValueError, match=r"every model failed.*size = 16 is not possible"):
        compare(data, [word], out=tmp_path / "out", **(SETTINGS | {"size": 16}))
    compare(data, [word], out=tmp_path / "out", **SETTINGS)
    assert read(tmp_path / "out")["runs"][0]["status"] == "done"


@pytest.mark.parametrize(
    ("models", "changes", "message"),
    [
        ([], {}, "no model is named"),
        ([MISTYPED], {}, "did you mean 'swin_tiny'"),
        (["pvt_v2[dims=[8"], {}, "is not a model"),
        (["pvt_v2[dimms=[8]]"], {}, "has no field 'dimms'"),
        ([TINY_WORD], {"epochs": 0}, "epochs = 0 is not possible"),
        ([TINY_WORD], {"minutes": 1.0}, "either minutes or epochs"),
        ([TINY_WORD], {"epochs": None, "minutes": -1.0}, "minutes = -1.0 is not possible"),
        ([TINY_WORD], {"seeds": 0}, "seeds = 0 is not possible"),
        ([TINY_WORD], {"seeds": [-1]}, "seeds = .* is not possible"),
        ([TINY_WORD], {"size": 0}, "size = 0 is not possible"),
        ([TINY_WORD], {"threads": 0}, "threads = 0 is not possible"),
        ([TINY_WORD], {"devices": 0}, "devices = 0 is not possible"),
        ([TINY_WORD], {"lr": -1.0}, "lr = -1.0 is not possible"),
        ([TINY_WORD], {"precision": "float3"}, "precision = 'float3' is not possible"),
        ([TINY_WORD], {"recipe": "quik"}, "did you mean 'quick'"),
        ([TINY_WORD], {"device": "toaster"}, "device = 'toaster' is not possible"),
        ([TINY_WORD], {"set": {"dimms": [8]}}, "none of the models has a field 'dimms'"),
    ],
)
def test_what_is_impossible_is_said_before_anything_is_written(
    data: Path, tmp_path: Path, models: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(data, models, out=tmp_path / "out", **(SETTINGS | changes))
    assert not (tmp_path / "out").exists()


def test_settings_are_those_that_the_runs_had(tmp_path: Path) -> None:
    settings = SETTINGS | {"size": None, "recipe": "default", "batch": 64}
    page = compare("digits", [TINIER_WORD], out=tmp_path / "out", **settings)
    shared = read(tmp_path / "out")["settings"]
    run = Run.open(tmp_path / "out" / read(tmp_path / "out")["runs"][0]["run"])
    assert shared["size"] == run.size == 32
    assert shared["augmentation"] == run.config["recipe"]["augmentation"]
    assert shared["augmentation"]["flip"] == 0
    assert "<dt>size</dt><dd>32</dd>" in page.read_text()


def test_data_and_folders_that_cannot_be_used(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        compare(tmp_path / "nowhere", [TINY_WORD], **SETTINGS)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file"):
        compare(data, [TINY_WORD], out=tmp_path / "file", **SETTINGS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text("[1]")
    with pytest.raises(ValueError, match="is not of a comparison"):
        compare(data, [TINY_WORD], out=tmp_path / "other", **SETTINGS)


@pytest.mark.slow
def test_killed_in_the_second_training_the_same_command_finishes(data: Path, tmp_path: Path) -> None:
    epochs = 15
    words = [sys.executable, "-m", "ommatid", "compare", str(data), "--models", f"{TINIER_WORD},{TINY_WORD}"]
    words += ["--recipe", "quick", "--batch", "6", "--size", "32", "--epochs", str(epochs)]
    with subprocess.Popen(words, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(list(tmp_path.glob("runs/*/runs/*/checkpoints/last.ckpt"))) == 2, process)
        process.send_signal(signal.SIGKILL)
    (out,) = (tmp_path / "runs").iterdir()
    first, second = sorted((out / "runs").iterdir(), key=lambda run: (run / "config.yaml").stat().st_mtime)
    assert (first / "result.json").is_file()
    assert not (second / "result.json").is_file()
    kept = {path: path.stat().st_mtime_ns for path in (first / "best.safetensors", second / "config.yaml")}
    latency = read(out)["runs"][0]["latency_ms"]

    ended = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == str((out / "report.html").relative_to(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    rows = read(out)["runs"]
    assert [row["status"] for row in rows] == ["done", "done"]
    assert [len(row["curve"]) for row in rows] == [epochs, epochs]
    assert rows[0]["latency_ms"] == latency


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)
