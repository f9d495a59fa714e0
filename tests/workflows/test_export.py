"""export: files that other programs run, and what stands beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ommatid.data import MEAN, eval_transform
from ommatid.deployment.exported import open_exported
from ommatid.models import create_model, load, save
from ommatid.runs.trained import RestorerFacts
from ommatid.workflows.bench import bench
from ommatid.workflows.evaluate import evaluate
from ommatid.workflows.export import export
from ommatid.workflows.predict import predict

from .small import photographs, save_weights

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

TINY_DLGSANET = {"dim": 24, "groups": 1, "blocks": 1, "heads": 3, "group_channels": 4, "kernel_size": 3, "scale": 2}
TINY_HAT = {"dim": 12, "depths": [2], "heads": [2], "window_size": 4, "compress_ratio": 3, "squeeze_factor": 6}
TINY_RGT = {"dim": 32, "depths": [3], "heads": [2], "window_size": [4, 8], "scale": 2}
TINY_MAXIM = {"dim": 8, "depth": 1, "num_groups": 1, "supervision_scales": 1, "bottleneck_blocks": 1}
MAXIM_GRIDS = {"block_size_hr": [2, 2], "grid_size_hr": [2, 4], "block_size_lr": [2, 2], "high_res_levels": 1}


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return save_weights(tmp_path / "best.safetensors", ("cat", "ship", "truck"))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Of a size at which the sides of its images are free."""
    return save_weights(tmp_path / "best.safetensors", ("cat", "ship", "truck"), size=64)


def save_restorer(path: Path, family: str, config: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    save(create_model(family, **config), path, extra=RestorerFacts(family, "bicubic x2", 16).to_header())
    return path


def test_a_classifier_runs_in_onnx_runtime_on_any_number_of_images(classifier: Path) -> None:
    done = export(classifier)
    session = onnxruntime.InferenceSession(done.path)
    for batch in (1, 3):
        images = torch.rand(batch, 3, 32, 32)
        (answer,) = session.run(["answer"], {"image": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(answer), load(classifier)(images).detach(), rtol=1e-3, atol=1e-4)
    told = json.loads(done.description.read_text())
    assert told["classes"] == ["cat", "ship", "truck"]
    assert told["mean"] == list(MEAN)
    assert told["input"]["shape"] == ["batch", 3, 32, 32]
    assert done.error < 1e-4


@pytest.mark.parametrize(
    ("family", "config", "sizes", "sides"),
    [
        ("dlgsanet", TINY_DLGSANET | {"tlc_kernel": None}, [(20, 31), (40, 24)], ([1, 1], [2, 2], None)),
        ("dlgsanet", TINY_DLGSANET | {"tlc_kernel": 8}, [(9, 13), (40, 21)], ([1, 1], [9, 9], None)),
        ("hat", TINY_HAT, [(8, 20), (32, 12)], ([4, 4], [8, 8], None)),
        ("rgt", TINY_RGT, [(32, 48), (72, 40)], ([8, 8], [32, 32], [1016, 1016])),
        ("maxim", TINY_MAXIM | MAXIM_GRIDS, [(8, 24), (20, 16)], ([4, 4], [8, 8], None)),
    ],
)
def test_a_restoration_network_runs_on_the_sides_that_are_named(
    family: str, config: dict[str, Any], sizes: list[tuple[int, int]], sides: tuple[Any, ...], tmp_path: Path
) -> None:
    restorer = save_restorer(tmp_path / "best.safetensors", family, config)
    done = export(restorer)
    session = onnxruntime.InferenceSession(done.path)
    for height, width in sizes:
        image = torch.rand(1, 3, height, width)
        (answer,) = session.run(["answer"], {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(answer), load(restorer)(image).detach(), rtol=1e-3, atol=1e-4)
    told = json.loads(done.description.read_text())
    assert told["undoes"] == "bicubic x2"
    assert (told["multiple"], told["shortest"], told["longest"]) == sides


def test_a_torch_program_gives_the_same_answers(classifier: Path, tmp_path: Path) -> None:
    done = export(classifier, format="torch", out=tmp_path / "new" / "model.pt2")
    assert done.path == tmp_path / "new" / "model.pt2"
    images = torch.rand(4, 3, 32, 32)
    answer = torch.export.load(done.path).module()(images)
    torch.testing.assert_close(answer, load(classifier)(images), rtol=1e-3, atol=1e-4)


def test_openvino_runs_a_classifier_in_every_size_that_the_description_names(large: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    done = export(large, format="openvino")
    told = json.loads(done.description.read_text())
    assert (told["multiple"], told["shortest"], told["longest"]) == ([32, 32], [64, 64], None)
    compiled = openvino.compile_model(done.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for shape in [(1, 3, 64, 64), (3, 3, 96, 160)]:
        images = torch.rand(shape)
        answer = torch.from_numpy(compiled([images.numpy()])[0])
        torch.testing.assert_close(answer, load(large)(images).detach(), rtol=1e-3, atol=1e-4)


def test_a_file_that_prepares_images_answers_as_ommatid_does_from_the_picture(large: Path) -> None:
    done = export(large, prepare=True)
    session = onnxruntime.InferenceSession(done.path)
    for height, width in [(83, 120), (64, 64), (41, 30)]:
        picture = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        (answer,) = session.run(["answer"], {"image": picture[None].numpy()})
        expected = load(large)(eval_transform(64)(picture)[None]).detach()
        torch.testing.assert_close(torch.from_numpy(answer), expected, rtol=1e-2, atol=1e-2)
    told = json.loads(done.description.read_text())
    assert told["input"]["type"] == "uint8, RGB"


@pytest.mark.slow
def test_machine_code_gives_the_same_answers(classifier: Path) -> None:
    done = export(classifier, format="aotinductor")
    assert done.path.name == "best.aoti.pt2"
    images = torch.rand(4, 3, 32, 32)
    answer = open_exported(done.path).model(images)
    torch.testing.assert_close(answer, load(classifier)(images).detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prepare", [False, True])
def test_predict_evaluate_and_bench_take_the_file(classifier: Path, prepare: bool, tmp_path: Path) -> None:
    data = photographs(tmp_path / "photographs")
    file = export(classifier, prepare=prepare).path
    theirs, ours = (predict(subject, [data / "val"]).predictions for subject in (file, classifier))
    for one, other in zip(theirs, ours, strict=True):
        assert [label.name for label in one.labels] == [label.name for label in other.labels]
        assert [label.probability for label in one.labels] == pytest.approx(
            [label.probability for label in other.labels], abs=1e-3
        )
    judged, known = (evaluate(subject, data, out=tmp_path / "report") for subject in (file, classifier))
    assert judged["confusion"] == known["confusion"]
    (row,) = bench([str(file)], rounds=3, seconds=0.1, throughput_batch=2)
    assert row.error is None
    assert row.measurement is not None
    assert row.measurement.size == (32, 32)
    assert row.measurement.macs is None
    with pytest.raises(ValueError, match="follow gradients"):
        evaluate(file, data, attack="pgd 8/255 x10")


def test_a_file_without_its_description_is_refused(classifier: Path) -> None:
    done = export(classifier, format="torch")
    done.description.write_text("{}")
    with pytest.raises(ValueError, match="not a description that `ommatid export` wrote"):
        predict(done.path, ["."])
    done.description.unlink()
    with pytest.raises(ValueError, match=r"there is no .*best.pt2.json"):
        predict(done.path, ["."])


def test_impossible_wishes_are_refused(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allowed is onnx or openvino or torch or aotinductor"):
        export(classifier, format="onyx")
    with pytest.raises(ValueError, match="nothing"):
        export(tmp_path / "nothing")


def test_what_an_exporter_cannot_do_is_said_in_one_line(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no such operator\nand a page of explanation")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(ValueError, match=r"^pvt_v2 cannot be exported as onnx: no such operator$"):
        export(classifier)
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]
