"""reduce on segmentation networks: clustered tokens under a decoder, tokens that leave early, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ommatid.data import MEAN, STD
from ommatid.data.dense import open_scenes
from ommatid.models import create_model, save
from ommatid.runs.run import Run
from ommatid.runs.trained import SceneFacts
from ommatid.workflows.evaluate import evaluate
from ommatid.workflows.predict import predict
from ommatid.workflows.reduce import reduce
from ommatid.workflows.train import train

VIT = {"patch_size": 8, "dim": 24, "heads": 3, "depth": 3}
EXITING = "dtop[patch_size=8,dim=24,heads=3,depth=4,head_after=[1,2,3],head_dim=12,head_heads=2,decoder_layers=1]"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve of the embedded scenes to train on and four to judge by, with masks."""
    return scenes(tmp_path_factory.mktemp("scenes"), {"train": range(12), "val": range(12, 16)})


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three more scenes."""
    return scenes(tmp_path_factory.mktemp("others"), {"": range(16, 19)})


def scenes(root: Path, parts: dict[str, range]) -> Path:
    data = open_scenes("scenes", "masks")
    (root / "classes.txt").write_text("\n".join(data.classes))
    for part, numbers in parts.items():
        for name in ("images", "masks"):
            (root / part / name).mkdir(parents=True)
        for number in numbers:
            pixels, truth = data.train[number]
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(root / part / "images" / f"{number}.png")
            Image.fromarray(np.asarray(truth["mask"])).save(root / part / "masks" / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(yaml.safe_dump({"epochs": 1, "batch": 4, "lr": 1e-3}))
    return path


@pytest.fixture(scope="module")
def exiting(few: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("exiting") / "run"
    result = train(few, task="segmentation", model=EXITING, size=64, recipe=recipe, out=out, progress=False)
    return Run.open(result.run)


@pytest.fixture(scope="module")
def clustered(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a plain transformer under a linear decoder."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clustered") / "plain.safetensors"
    parts = {"backbone": "vit", "backbone_fields": VIT, "decoder": "linear", "decoder_dim": 16}
    return saved(path, "segmenter", image_size=128, **parts)


def saved(path: Path, family: str, task: str = "segmentation", **fields: Any) -> Path:
    classes = open_scenes("scenes", "masks").classes
    model = create_model(family, num_classes=len(classes), **fields)
    facts = SceneFacts(task, family, classes, (96, 128), "whole", MEAN, STD)
    save(model, path, extra=facts.to_header())
    return path


def test_clustered_tokens_are_judged_by_miou_and_drawn(clustered: Path, others: Path) -> None:
    result = reduce(clustered, others, keep=[1.0, 0.4], rounds=3)
    first, full, fewer = result["settings"]
    assert result["method"] == "expedite"  # the usual one here
    assert result["model"] == "vit + linear"
    assert (full["miou"], full["macs_m"]) == (first["miou"], first["macs_m"])
    assert fewer["macs_m"] < first["macs_m"]
    assert evaluate(fewer["weights"], others)["miou"] == pytest.approx(fewer["miou"], abs=1e-6)
    page = Path(result["report"]).read_text()
    assert "MIoU against latency" in page
    assert {picture["setting"] for picture in result["pictures"]} == {"expedite 0.4"}
    assert page.count('alt="expedite 0.4: ') == 3


def test_tokens_leave_early_from_a_trained_dtop(exiting: Run, few: Path, others: Path, tmp_path: Path) -> None:
    assert evaluate(exiting.path)["miou"] == pytest.approx(exiting.result["best_miou"], abs=1e-5)
    result = reduce(exiting.path, keep=[1.0, 0.05], rounds=3)
    first, full, fewer = result["settings"]
    assert result["method"] == "dtop"
    assert (full["miou"], full["macs_m"]) == (first["miou"], first["macs_m"])
    assert first["miou"] == pytest.approx(exiting.result["best_miou"], abs=1e-5)
    assert fewer["macs_m"] < first["macs_m"]
    assert {picture["setting"] for picture in result["pictures"]} == {"dtop 0.05"}
    assert all(picture["tokens"] < picture["patches"] for picture in result["pictures"])
    seen = predict(fewer["weights"], sorted((others / "images").iterdir()), out=tmp_path)
    assert len(seen.predictions) == 3


def test_what_lets_tokens_leave_is_trained_on(exiting: Run) -> None:
    result = reduce(exiting.path, keep=[0.2], finetune=1, rounds=3)
    tuned = Run.open(exiting.path / "reduced-dtop" / "dtop-0.2")
    assert tuned.load_model().config.thresholds == (0.2, 0.2)
    assert result["settings"][1]["miou"] == pytest.approx(tuned.result["best_miou"], abs=1e-5)


def test_a_method_that_leaves_no_map_is_refused_in_one_line(clustered: Path, exiting: Run, others: Path) -> None:
    for method in ("tome", "ia_red2", "sparsifiner", "early_exit", "dtop"):
        with pytest.raises(ValueError, match=rf"method = '{method}' is not possible: allowed is expedite") as caught:
            reduce(clustered, others, method=method)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="allowed is dtop"):
        reduce(exiting.path, method="expedite")
    with pytest.raises(ValueError, match="allowed is above 0, up to 1"):
        reduce(clustered, others, keep=[1.5])


def test_other_networks_are_refused_in_one_line(others: Path, tmp_path: Path) -> None:
    small = {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "heads": [1, 1, 1, 1]}
    pyramid = saved(tmp_path / "pyramid.safetensors", "segmenter", backbone="pvt_v2", backbone_fields=small)
    with pytest.raises(ValueError, match="allowed is a plain transformer"):
        reduce(pyramid, others)
    boxes = {"backbone": "pvt_v2", "backbone_fields": small, "decoder_dim": 16}
    detector = saved(tmp_path / "detector.safetensors", "fcos", task="detection", **boxes)
    with pytest.raises(ValueError, match="task = 'detection' is not possible: allowed is classification or segm"):
        reduce(detector, others)
