"""Segmentation and detection from data to page: train, resume, evaluate, predict, compare, bench."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ommatid.data.dense import open_scenes
from ommatid.data.dense.segments import read_ids
from ommatid.models import create_model, save
from ommatid.runs.run import Run
from ommatid.runs.trained import open_dense
from ommatid.workflows.bench import bench
from ommatid.workflows.compare import compare
from ommatid.workflows.evaluate import evaluate
from ommatid.workflows.predict import predict
from ommatid.workflows.train import train

SMALL = {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "heads": [1, 1, 1, 1], "mlp_ratios": [1, 1, 1, 1]}
QUERIES: dict[str, Any] = {
    **{"conv_dim": 32, "mask_dim": 16, "encoder_layers": 1, "encoder_heads": 4, "encoder_mlp_dim": 32, "dim": 32},
    **{"heads": 4, "mlp_dim": 32, "decoder_layers": 2, "num_queries": 6, "points": 64},
    "backbone_fields": {"heads": [1, 1, 1, 1]},
}
HEADS: dict[str, dict[str, Any]] = {
    "segmentation": {"decoder_dim": 16},
    "detection": {"decoder_dim": 16},
    "instances": QUERIES,
    "panoptic": QUERIES,
}
JUDGED = {"segmentation": "miou", "detection": "ap", "instances": "ap", "panoptic": "pq"}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve of the embedded scenes, as COCO's JSON."""
    root = tmp_path_factory.mktemp("scenes")
    (root / "images").mkdir()
    data = open_scenes("scenes", "boxes")
    images, annotations = [], []
    for number in range(12):
        pixels, truth = data.train[number]
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 128, "height": 96})
        for box, label in zip(truth["boxes"].tolist(), truth["labels"].tolist(), strict=True):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            annotations.append({"id": len(annotations), "image_id": number, "category_id": label, "bbox": bbox})
    categories = [{"id": label, "name": name} for label, name in enumerate(data.classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "scenes.json").write_text(json.dumps(content))
    return root / "scenes.json"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(yaml.safe_dump({"epochs": 2, "batch": 4, "lr": 2e-3, "ema": 0.9, "clip": 1.0}))
    return path


@pytest.fixture(scope="module")
def arguments(few: Path, recipe: Path) -> dict[str, Any]:
    return {"data": few, "model": "pvt_v2", "set": SMALL, "recipe": recipe, "size": 64, "progress": False}


@pytest.fixture(scope="module", params=HEADS)
def run(request: pytest.FixtureRequest, arguments: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp(request.param) / "run"
    return Run.open(train(task=request.param, out=out, **with_head(arguments, request.param)).run)


def with_head(arguments: dict[str, Any], task: str) -> dict[str, Any]:
    return arguments | {"set": arguments["set"] | HEADS[task]}


KILLED = """
import json, os, signal, sys
import torch
from ommatid.tasks.training import Training
from ommatid.workflows.train import train

torch.set_num_threads(1)


def step_then_die(self, batch, batch_idx, step=Training.training_step):
    if self.current_epoch == 1 and batch_idx == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)


Training.training_step = step_then_die
train(**json.loads(sys.argv[1]))
"""


def test_killed_and_resumed_it_ends_where_it_would_have_ended(
    run: Run, arguments: dict[str, Any], tmp_path: Path
) -> None:
    task = run.config["task"]
    told = json.dumps(with_head(arguments, task) | {"task": task, "out": tmp_path / "run"}, default=str)
    command = [sys.executable, "-c", KILLED, told]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert len(Run.open(tmp_path / "run").metrics()) == 1
    train(resume=tmp_path / "run", progress=False)
    resumed, whole = (r.load_model(best=False).state_dict() for r in (Run.open(tmp_path / "run"), run))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def test_evaluation_says_what_training_found(run: Run) -> None:
    result = evaluate(run.path)
    name = JUDGED[run.config["task"]]
    assert result[name] == pytest.approx(run.result[f"best_{name}"], abs=1e-5)
    page = Path(result["report"]).read_text()
    assert page.count("data:image/jpeg") == 6  # picture, answer and truth of each of two
    assert len(result["per_class"]) == len(run.classes)


def test_predictions_are_drawn_and_written(run: Run, few: Path, tmp_path: Path) -> None:
    images = sorted((few.parent / "images").iterdir())[:2]
    panoptic = run.config["task"] == "panoptic"
    found = predict(surer(run, tmp_path) if panoptic else run.path, images, out=tmp_path)
    assert len(found.predictions) == len(list((tmp_path / "pictures").glob("*.png"))) == 2
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    told = json.loads((tmp_path / "predictions.json").read_text())["predictions"][0]
    if run.config["task"] == "segmentation":
        mask = np.asarray(Image.open(tmp_path / "pictures" / "masks" / "00001-0.png"))
        assert mask.shape == (96, 128)
        share = float(rows[0]["share"])
        assert share == pytest.approx((mask == run.classes.index(rows[0]["class"])).mean(), abs=1e-5)
        assert sum(told["shares"].values()) == pytest.approx(1, abs=1e-5)
    elif panoptic:
        ids = read_ids(tmp_path / "pictures" / "masks" / "00001-0.png")
        assert ids.shape == (96, 128)
        assert set(told) == {"path", "segments"}
        shares = {segment["id"]: segment["share"] for segment in told["segments"]}
        assert shares == pytest.approx({id: (ids == id).mean() for id in set(ids.flatten().tolist()) - {0}})
        assert len(rows) == sum(len(one.segments or ()) for one in found.predictions) > 0  # type: ignore[union-attr]
        assert {row["class"] for row in rows} == {run.classes[1]}
    else:
        assert len(rows) == sum(len(one.things or ()) for one in found.predictions)  # type: ignore[union-attr]
        assert set(told) == {"path", "things"}


def surer(run: Run, folder: Path) -> Path:
    """Weights of a network that takes all its masks for things of class 1, however short its training was."""
    trained = open_dense(run.path)
    model: Any = trained.model
    with torch.no_grad():
        model.queries.heads.class_embed.bias[1] += 20
    save(model, folder / "surer.safetensors", extra=trained.facts.to_header())
    return folder / "surer.safetensors"


def test_kmax_learns_segments(arguments: dict[str, Any], tmp_path: Path) -> None:
    fields = {
        "pixel_dims": [8, 8, 8, 8],
        "pixel_depths": [1, 1, 1, 1],
        "depths": [1, 1, 1],
        "num_queries": 6,
        "points": 64,
    }
    changed = arguments | {"set": SMALL | fields}
    result = train(task="panoptic", decoder="kmax", epochs=1, out=tmp_path / "run", **changed)
    assert result.metric.word == "PQ"
    assert Run.open(result.run).split["stuff"] == ["background"]
    assert evaluate(result.run)["pq"] == pytest.approx(result.best["pq"], abs=1e-5)


def test_a_backbone_starts_from_a_classifier(arguments: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = create_model("pvt_v2", num_classes=3, **SMALL)
    save(classifier, tmp_path / "classifier.safetensors")
    frozen = yaml.safe_load(Path(arguments["recipe"]).read_text()) | {"epochs": 1, "backbone_lr": 0, "ema": 0.0}
    (tmp_path / "frozen.yaml").write_text(yaml.safe_dump(frozen))
    changed = arguments | {"recipe": tmp_path / "frozen.yaml", "weights": tmp_path / "classifier.safetensors"}
    result = train(task="segmentation", decoder="mlp", checkpoint=True, out=tmp_path / "run", **changed)
    model: Any = Run.open(result.run).load_model(best=False)
    trained, before = dict(model.backbone.named_parameters()), dict(classifier.named_parameters())
    assert set(before) - set(trained) == {"head.weight", "head.bias"}
    for name, parameter in trained.items():
        assert torch.equal(parameter, before[name]), name


def test_compare_judges_backbones_under_one_decoder(arguments: dict[str, Any], tmp_path: Path) -> None:
    word = "pvt_v2[dims=[8,8,8,8],depths=[1,1,1,1],heads=[1,1,1,1],mlp_ratios=[1,1,1,1],decoder_dim=16]"
    given = {name: arguments[name] for name in ("recipe", "size", "progress")}
    page = compare(arguments["data"], [word], task="detection", decoder="fcos", epochs=1, out=tmp_path, **given)
    (row,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert row["status"] == "done", row["error"]
    assert row["family"] == "pvt_v2"
    assert row["latency_ms"] > 0
    assert "AP50" in page.read_text()


def test_bench_measures_backbones_with_a_decoder() -> None:
    alone, whole = (
        bench(["resnet18_ibn_a"], size=64, task=task, rounds=1, seconds=0.1)[0] for task in (None, "segmentation")
    )
    assert whole.error is None
    assert alone.measurement is not None
    assert whole.measurement is not None
    assert whole.measurement.macs > alone.measurement.macs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": "mlpp"}, r"decoder = 'mlpp' is not possible: allowed is .*mlp"),
        ({"model": "dlgsanet", "set": {}}, "is a restoration network, not a segmentation network"),
        ({"task": "panoptic", "decoder": "mlp"}, r"decoder = 'mlp' is not possible: allowed is kmax, mask2former"),
        (
            {"task": "panoptic", "model": "fcos", "set": {}},
            "model = 'fcos' is not possible: allowed is one that finds m",
        ),
        ({"set": {"num_classes": 3}}, "num_classes=3 is not possible: it follows from the data"),
        ({"set": {"dimms": [8]}}, "no field 'dimms'"),
        ({"degrade": "bicubic x2"}, "it is for the task restoration alone"),
        ({"task": "classification", "decoder": "mlp"}, "models for classification have no decoder"),
    ],
)
def test_what_is_impossible_is_said_in_one_line(
    change: dict[str, Any], message: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        train(**({"task": "segmentation", "out": tmp_path / "run"} | arguments | change))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_mask_transformer_gives_every_pixel_a_class(arguments: dict[str, Any], tmp_path: Path) -> None:
    changed = arguments | {"set": SMALL | QUERIES}
    result = train(task="segmentation", decoder="mask2former", epochs=1, out=tmp_path / "run", **changed)
    assert evaluate(result.run)["miou"] == pytest.approx(result.best["miou"], abs=1e-5)
