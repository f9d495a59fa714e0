"""Exported files of networks for scenes and for restoration where runs are taken: the same answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ommatid.deployment.export import FORMATS, Format
from ommatid.models import create_model, save
from ommatid.runs.scenes import things_of
from ommatid.runs.trained import RestorerFacts, SceneFacts
from ommatid.workflows.bench import bench
from ommatid.workflows.evaluate import evaluate
from ommatid.workflows.export import export
from ommatid.workflows.opening import open_scene_network
from ommatid.workflows.predict import predict
from ommatid.workflows.restore import restore

CPU = torch.device("cpu")
SMALL = {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "heads": [1, 1, 1, 1], "mlp_ratios": [1, 1, 1, 1]}
SHAPES = ("disc", "square", "triangle", "cross")
QUERIES: dict[str, Any] = {
    **{"conv_dim": 32, "mask_dim": 16, "encoder_layers": 1, "encoder_heads": 4, "encoder_mlp_dim": 32, "dim": 32},
    **{"heads": 4, "mlp_dim": 32, "decoder_layers": 2, "num_queries": 6},
}
KMAX: dict[str, Any] = {
    **{"pixel_dims": [8, 8, 8, 8], "pixel_depths": [1, 1, 1, 1], "depths": [1, 1, 1], "num_queries": 6}
}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("segmentation", "segmenter", {"decoder": "unet", "decoder_dim": 16}),
    ("detection", "fcos", {"decoder_dim": 16}),
    ("detection", "retinanet", {"decoder_dim": 16, "head_depth": 1}),
    ("detection", "deformable_detr", {"dim": 32, "heads": 4, "mlp_dim": 32, "encoder_layers": 1, "decoder_layers": 2}),
    ("instances", "mask2former", QUERIES),
    ("panoptic", "mask2former", QUERIES),
    ("panoptic", "kmax", KMAX),
]


def saved(folder: Path, task: str, family: str, view: Any = "whole", **fields: Any) -> Path:
    """Weights of a network that finds much, however wrong, in the embedded scenes."""
    torch.manual_seed(0)
    classes = ("background", *SHAPES) if task in ("segmentation", "panoptic") else SHAPES
    model = create_model(family, backbone="pvt_v2", backbone_fields=SMALL, num_classes=len(classes), **fields)
    noise = 0.02 if family == "deformable_detr" else 0.1  # of which more throws its samples far out of the image
    for name, parameter in model.named_parameters():
        parameter.data += noise * torch.randn_like(parameter)
        if name.endswith("classes.bias"):
            parameter.data += 3
        if name.endswith(("class_embed.bias", "class_head.bias")):
            parameter.data[1] += 9  # surer than of "no object"
    stuff = ("background",) if task == "panoptic" else ()
    facts = SceneFacts(task, family, classes, (96, 128), view, (0.5,) * 3, (0.25,) * 3, stuff)
    save(model, folder / "best.safetensors", extra=facts.to_header())
    return folder / "best.safetensors"


def pictures(folder: Path) -> list[Path]:
    """Of the training's size, of another one, and of an odd one."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for height, width in [(96, 128), (192, 256), (50, 67)]:
        image = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height))
        image.save(folder / f"{height}.png")
    return sorted(folder.iterdir())


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("TRAIN", "VAL"):
        monkeypatch.setattr(f"ommatid.data.dense.generated.{part}", 4)


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports in no time: what would run the file runs the model, all around it is as ever."""
    models: dict[str, Any] = {}

    def write(model: Any, path: Path, outputs: Any) -> None:
        path.write_bytes(b"a program")
        models[path.name] = model

    monkeypatch.setattr("ommatid.workflows.export.capture_widest", lambda model, example, sides: (model, sides))
    monkeypatch.setitem(FORMATS, "torch", Format(".pt2", write, lambda path: torch.no_grad()(models[path.name])))


def assert_like_its_run(file: Path, weights: Path, folder: Path) -> None:
    """Judged alike on the embedded scenes, and the same on pictures of several sizes."""
    told, known = (evaluate(subject, "scenes", out=folder / "page") for subject in (file, weights))
    assert told["model"] == known["model"]
    for name in ("miou", "ap", "ap50", "pq", "sq", "rq"):
        assert told.get(name) == pytest.approx(known.get(name), abs=1e-4)
    shown = pictures(folder / "pictures")
    theirs, ours = (predict(subject, shown).predictions for subject in (file, weights))
    for one, other in zip(theirs, ours, strict=True):
        assert_close(one.to_dict(), other.to_dict())


def assert_close(one: Any, other: Any) -> None:
    """Equal but for rounding, wherever there are numbers."""
    if isinstance(other, float):
        assert one == pytest.approx(other, abs=2e-3, rel=1e-3)
    elif isinstance(other, dict):
        assert one.keys() == other.keys()
        assert_close(list(one.values()), list(other.values()))
    elif isinstance(other, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_close(*pair)
    else:
        assert one == other


every_case = pytest.mark.parametrize(
    ("task", "family", "fields"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES]
)


@every_case
def test_a_file_of_a_network_for_scenes_is_used_like_its_run(
    task: str, family: str, fields: dict[str, Any], tmp_path: Path, untraced: None
) -> None:
    weights = saved(tmp_path, task, family, **fields)
    assert_like_its_run(export(weights, format="torch").path, weights, tmp_path)


def test_a_segmentation_network_in_onnx_is_used_like_its_run(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    weights = saved(tmp_path, "segmentation", "segmenter", view="window", decoder="mlp", decoder_dim=16)
    assert_like_its_run(export(weights).path, weights, tmp_path)


@pytest.mark.slow
@every_case
def test_every_network_for_scenes_exports_to_onnx(
    task: str, family: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    weights = saved(tmp_path, task, family, **fields)
    assert_like_its_run(export(weights).path, weights, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "family", "fields"), CASES[:2], ids=["segmenter", "fcos"])
def test_networks_for_scenes_export_to_openvino(task: str, family: str, fields: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    weights = saved(tmp_path, task, family, **fields)
    assert_like_its_run(export(weights, format="openvino").path, weights, tmp_path)


@pytest.mark.parametrize(("task", "family", "fields"), CASES[1:4], ids=[case[1] for case in CASES[1:4]])
def test_the_file_of_a_detector_finds_the_same_boxes(
    task: str, family: str, fields: dict[str, Any], tmp_path: Path, untraced: None
) -> None:
    weights = saved(tmp_path, task, family, **fields)
    file = export(weights, format="torch").path
    image = torch.randint(0, 256, (3, 60, 100), dtype=torch.uint8)
    # RetinaNet's coarsest map is one cell at this size: its file takes this size alone.
    for sides in [(96, 128)] if family == "retinanet" else [(96, 128), (70, 80)]:
        theirs, ours = (
            things_of(open_scene_network(subject), sides, image, CPU, score=0.02) for subject in (file, weights)
        )
        assert len(ours["labels"]) > 5
        assert torch.equal(theirs["labels"], ours["labels"])
        torch.testing.assert_close(theirs["boxes"], ours["boxes"], rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(theirs["scores"], ours["scores"], rtol=1e-3, atol=1e-4)


def test_a_file_of_one_size_sees_smaller_pictures_and_refuses_larger_ones(
    tmp_path: Path, untraced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ommatid.workflows.export.capture_widest", lambda model, example, sides: (model, None))
    weights = saved(tmp_path, "segmentation", "segmenter", decoder="mlp", decoder_dim=16)
    model = open_scene_network(export(weights, format="torch").path).model
    assert model(torch.rand(2, 3, 40, 128)).shape == (2, 5, 40, 128)
    with pytest.raises(ValueError, match=r"image size = \(97, 64\) is not possible: allowed is up to \(96, 128\)"):
        model(torch.rand(1, 3, 97, 64))


DLGSANET = {"dim": 24, "groups": 1, "blocks": 1, "heads": 3, "group_channels": 4, "kernel_size": 3, "scale": 2}
RESTORERS = [
    ("dlgsanet", DLGSANET | {"tlc_kernel": None}),
    ("rgt", {"dim": 32, "depths": [3], "heads": [2], "window_size": [4, 8], "scale": 2}),
]


def saved_restorer(folder: Path, family: str, config: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    weights = folder / "best.safetensors"
    save(create_model(family, **config), weights, extra=RestorerFacts(family, "bicubic x2", 16).to_header())
    return weights


def assert_restores_alike(file: Path, weights: Path, folder: Path) -> None:
    shown = [path for path in pictures(folder / "pictures") if path.stem != "192"]
    answers = []
    for name, subject in (("file", file), ("weights", weights)):
        done = restore(subject, shown, out=folder / name, tile=256, progress=False)
        assert len(done.restored) == 2
        assert done.report is not None
        answers.append([np.asarray(Image.open(done.folder / one.output)).astype(int) for one in done.restored])
    (_, theirs), (_, ours) = answers
    assert abs(theirs - ours).max() <= 1, "rounding to levels of 255"
    assert [answer.shape for answer in answers[0]] == [answer.shape for answer in answers[1]]


@pytest.mark.parametrize(("family", "config"), RESTORERS)
def test_restore_takes_the_file_of_a_restoration_network(
    family: str, config: dict[str, Any], tmp_path: Path, untraced: None
) -> None:
    weights = saved_restorer(tmp_path, family, config)
    assert_restores_alike(export(weights, format="torch").path, weights, tmp_path)


@pytest.mark.slow
def test_restore_takes_an_onnx_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    weights = saved_restorer(tmp_path, *RESTORERS[0])
    assert_restores_alike(export(weights).path, weights, tmp_path)


def test_a_picture_beyond_the_longest_side_goes_in_tiles(tmp_path: Path, untraced: None) -> None:
    weights = saved_restorer(tmp_path, "dlgsanet", DLGSANET | {"tlc_kernel": 24})
    done = restore(
        export(weights, format="torch").path, pictures(tmp_path / "pictures")[1:2], out=tmp_path / "out", progress=False
    )
    assert done.restored[0].after == (134, 100)


def test_bench_takes_the_file_of_a_network_for_scenes_at_its_own_sides(tmp_path: Path, untraced: None) -> None:
    weights = saved(tmp_path, "segmentation", "segmenter", decoder="mlp", decoder_dim=16)
    (row,) = bench([str(export(weights, format="torch").path)], rounds=1)
    assert row.error is None
    assert row.measurement is not None
    assert row.measurement.size == (96, 128)


def test_bench_counts_the_pixels_that_a_file_makes(tmp_path: Path, untraced: None) -> None:
    weights = saved_restorer(tmp_path, *RESTORERS[0])
    (row,) = bench([str(export(weights, format="torch").path)], size=32, rounds=1)
    assert row.error is None
    assert row.measurement is not None
    assert row.megapixels == pytest.approx(row.measurement.throughput * 64 * 64 / 1e6)


def test_what_a_description_lacks_is_named(tmp_path: Path, untraced: None) -> None:
    done = export(saved(tmp_path, "detection", "fcos", decoder_dim=16), format="torch")
    description = json.loads(done.description.read_text())
    assert description.pop("overlap") == 0.6
    done.description.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"best\.pt2\.json does not say overlap: export the run again"):
        evaluate(done.path, "scenes")
    with pytest.raises(ValueError, match="is of a detection, which restores no pictures"):
        restore(done.path, pictures(tmp_path / "pictures"))
