"""The task restoration through every verb that knows tasks: train, resume, evaluate, compare, bench."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_image
from torchvision.models import alexnet

from ommatid.models.weights import read_header
from ommatid.report.metric import RESTORERS
from ommatid.runs.run import Run
from ommatid.runs.trained import open_restorer, open_trained
from ommatid.workflows.bench import bench
from ommatid.workflows.compare import compare
from ommatid.workflows.evaluate import evaluate
from ommatid.workflows.train import TrainingError, train

SHAPE = {"dim": 8, "groups": 1, "blocks": 1, "heads": 2, "group_channels": 8, "kernel_size": 3}
WORD = "dlgsanet[dim=8,groups=1,blocks=1,heads=2,group_channels=8,kernel_size=3]"
SMALL: dict[str, Any] = {"task": "restoration", "model": "dlgsanet", "set": SHAPE, "size": 12, "progress": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve parts of a photograph: nine to train on, three to be judged by."""
    folder = tmp_path_factory.mktemp("pictures")
    photograph = load_sample_image("china.jpg")
    for number in range(12):
        part = folder / ("val" if number % 4 == 0 else "train")
        part.mkdir(exist_ok=True)
        top, left = 96 * (number // 4), 96 * (number % 4)
        Image.fromarray(photograph[top : top + 96, left : left + 96]).save(part / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text("epochs: 2\nbatch: 128\nlr: 2.0e-3\nema: 0.9\nclip: 1.0\nloss: charbonnier\n")
    return path


@pytest.fixture(scope="module")
def run(data: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("trained") / "run"
    return Run.open(train(data, degrade="bicubic x2", recipe=recipe, out=out, **SMALL).run)


def test_the_run_folder_speaks_of_restoration(run: Run) -> None:
    rows = run.metrics()
    assert tuple(rows[0]) == ("epoch", "train_loss", "val_loss", "val_psnr", "val_ssim", "lr", "seconds", "waited")
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    assert run.result["best_psnr"] == max(row["val_psnr"] for row in rows)
    assert set(run.result) == {
        "best_psnr",
        "ssim",
        "baseline_psnr",
        "baseline_ssim",
        "epochs",
        "seconds",
        "waited_share",
    }
    assert run.result["baseline_psnr"] > 20
    assert (run.config["task"], run.config["degrade"]) == ("restoration", "bicubic x2")
    header = read_header(run.weights())
    assert (header["task"], header["degrade"], header["image_size"]) == ("restoration", "bicubic x2", "12")
    assert (run.path / "curves.png").is_file()


def test_the_weights_open_as_a_restorer_and_not_as_a_classifier(run: Run) -> None:
    restorer = open_restorer(run.path)
    assert (restorer.model.scale, restorer.facts.degrade, restorer.facts.size) == (2, "bicubic x2", 12)
    assert restorer.model(torch.rand(1, 3, 7, 9)).shape == (1, 3, 14, 18)
    with pytest.raises(ValueError, match="is of a restoration, which tells no classes apart"):
        open_trained(run.path)


KILLED = """
import json, os, signal, sys
import torch
from ommatid.tasks.training import Training
from ommatid.workflows.train import train

torch.set_num_threads(1)


def step_then_die(self, batch, batch_idx, step=Training.training_step):
    if self.current_epoch == 1 and batch_idx == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)


Training.training_step = step_then_die
train(**json.loads(sys.argv[1]))
"""


def test_killed_and_resumed_ends_with_the_same_weights(run: Run, data: Path, recipe: Path, tmp_path: Path) -> None:
    arguments = json.dumps(
        {"data": data, "degrade": "bicubic x2", "recipe": recipe, "out": tmp_path / "run", **SMALL}, default=str
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    result = train(resume=tmp_path / "run", progress=False)
    assert result.epochs == 2
    assert Run.open(tmp_path / "run").result["best_psnr"] == run.result["best_psnr"]
    for name in ("last.safetensors", "best.safetensors"):
        torch.testing.assert_close(load_file(result.run / name), load_file(run.path / name), rtol=0, atol=0)


def test_weights_for_another_scale_start_with_a_fresh_head(
    run: Run, data: Path, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = SMALL | {"set": None, "model": None, "progress": True}
    train(data, degrade="bicubic x3", recipe=recipe, epochs=1, weights=run.weights(), out=tmp_path / "x3", **settings)
    assert "is for another scale: the head (reconstruction.0.weight, " in capfd.readouterr().err
    assert open_restorer(tmp_path / "x3").model.scale == 3


def test_evaluation_measures_lpips_with_given_weights(run: Run, tmp_path: Path) -> None:
    torch.save(alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    result = evaluate(run.path, lpips=tmp_path / "alexnet.pth", out=tmp_path / "out")
    assert result["baseline_lpips"] > 0
    assert all(row["lpips"] >= 0 for row in result["pictures"])
    assert "LPIPS" in Path(result["report"]).read_text()
    with pytest.raises(ValueError, match="can't be read as weights"):
        evaluate(run.path, lpips=tmp_path / "missing.pth", out=tmp_path / "out")


def test_evaluation_agrees_with_the_training_and_shows_the_ends(run: Run, data: Path, tmp_path: Path) -> None:
    result = evaluate(run.path)
    assert result["samples"] == 3
    for name in ("psnr", "baseline_psnr", "baseline_ssim"):
        known = run.result["best_psnr" if name == "psnr" else name]
        assert result[name] == pytest.approx(known, abs=1e-3)
    assert [row["psnr"] for row in result["worst"]] == sorted(row["psnr"] for row in result["pictures"])
    page = Path(result["report"])
    assert page.parent == run.path / f"evaluation-{data.name}"
    assert page.read_text().count('src="data:image/jpeg') == 9
    assert json.loads((page.parent / "evaluation.json").read_text())["degrade"] == "bicubic x2"
    alone = Path(shutil.copy(run.weights(), tmp_path / "alone.safetensors"))
    assert evaluate(alone, data / "train")["samples"] == 9
    with pytest.raises(ValueError, match="name the data"):
        evaluate(alone)


def test_compare_judges_by_psnr_and_megapixels(data: Path, recipe: Path, tmp_path: Path) -> None:
    words = [WORD, WORD.replace("dim=8", "dim=16"), "pvt_v2_b0"]
    settings: dict[str, Any] = {"task": "restoration", "degrade": "noise 25", "recipe": recipe, "epochs": 1, "size": 12}
    page = compare(data, words, out=tmp_path / "out", progress=False, **settings)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    failed, *done = results["runs"]
    assert failed["error"] == "pvt_v2_b0 is an image classifier, not a restoration network"
    assert [row["status"] for row in done] == ["done", "done"]
    assert all(row["psnr"] > 5 and row["throughput"] > 0 and "accuracy" not in row for row in done)
    assert results["yardstick"] == json.loads(json.dumps(RESTORERS.to_dict()))
    text = page.read_text()
    assert "Megapixels per second" in text
    assert "PSNR against megapixels per second" in text
    assert "ccuracy" not in text[text.rindex("<main") :]
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        assert {"psnr", "psnr_std", "ssim", "throughput"} <= set(next(csv.DictReader(file)))


def test_bench_counts_the_megapixels_of_the_answer(tmp_path: Path) -> None:
    (row,) = bench(["dlgsanet_tiny_x2"], size=16, throughput_batch=1, rounds=2, json_path=tmp_path / "bench.json")
    assert row.error is None
    assert row.measurement is not None
    assert row.megapixels == pytest.approx(row.measurement.throughput * 32 * 32 / 1e6)
    assert json.loads((tmp_path / "bench.json").read_text())["rows"][0]["megapixels"] == row.megapixels


def make_pairs(data: Path, folder: Path, smaller: int = 1) -> None:
    """Pairs of half the light, the degraded pictures `smaller` times smaller."""
    for part in ("train", "val"):
        for kind in ("input", "target"):
            (folder / part / kind).mkdir(parents=True)
        for file in (data / part).iterdir():
            clean = np.asarray(Image.open(file))
            Image.fromarray(clean[::smaller, ::smaller] // 2).save(folder / part / "input" / file.name)
            Image.fromarray(clean).save(folder / part / "target" / file.name)


def test_pairs_need_no_degradation(data: Path, recipe: Path, tmp_path: Path) -> None:
    make_pairs(data, tmp_path)
    result = train(tmp_path, recipe=recipe, epochs=1, out=tmp_path / "run", **SMALL)
    restorer = open_restorer(result.run)
    assert (restorer.facts.degrade, restorer.model.scale) == (None, 1)
    assert evaluate(result.run)["samples"] == 3


def test_pairs_judge_what_learned_from_a_degradation_where_the_scale_is_the_same(
    run: Run, data: Path, tmp_path: Path
) -> None:
    make_pairs(data, tmp_path / "halved", smaller=2)
    make_pairs(data, tmp_path / "whole")
    assert evaluate(run.path, tmp_path / "halved", out=tmp_path / "out")["samples"] == 3
    with pytest.raises(ValueError, match="whole asks for 1 times the size, the network gives 2 times"):
        evaluate(run.path, tmp_path / "whole")


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"task": "restore"}, "task = 'restore' is not possible: allowed is classification, restoration"),
    ({"task": "classification"}, "degrade = 'bicubic x2' is not possible"),
    ({"degrade": None}, "say what is done to them"),
    ({"degrade": "bicubik x2"}, "bicubic"),
    ({"model": "pvt_v2_b0", "set": None}, "pvt_v2_b0 is an image classifier, not a restoration network"),
    ({"set": {"scale": 3}}, "set scale=3 is not possible: it follows from the data"),
    ({"size": 300}, "no picture has 600 pixels along both sides"),
    ({"data": "no/such/folder"}, "does not exist"),
    ({"data": None}, "no data is named: give photographs, a folder of pictures"),
]


@pytest.mark.parametrize(("change", "message"), IMPOSSIBLE)
def test_impossible_settings_are_answered_in_one_line_and_leave_nothing(
    change: dict[str, Any], message: str, data: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"data": data, "degrade": "bicubic x2", "recipe": recipe, **SMALL} | change
    with pytest.raises(ValueError, match=message) as caught:
        train(settings.pop("data"), **settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_loss_of_another_task_is_refused(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("epochs: 1\nbatch: 8\nlr: 1.0e-3\nloss: cross_entropy\n")
    with pytest.raises(ValueError, match="allowed is l1, charbonnier, frequency for restoration"):
        train(data, degrade="noise 25", recipe=path, **SMALL)


def test_a_loss_that_is_no_number_keeps_the_patches(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "wild.yaml"
    path.write_text("epochs: 2\nbatch: 16\nlr: 1.0e+30\n")
    with pytest.raises(TrainingError, match="the loss became"):
        train(data, degrade="bicubic x2", recipe=path, out=tmp_path / "run", **SMALL)
    (folder,) = (tmp_path / "run").glob("bad-batch-step*")
    batch = load_file(folder / "batch.safetensors")
    assert (batch["degraded"].shape, batch["clean"].shape) == ((16, 3, 12, 12), (16, 3, 24, 24))
    assert (folder / "batch.png").is_file()
