"""export: files that other programs run, and what stands beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ommatid.data import MEAN
from ommatid.models import create_model, load, save
from ommatid.runs.trained import RestorerFacts
from ommatid.workflows.export import export

from .small import save_weights

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

TINY_DLGSANET = {"dim": 24, "groups": 1, "blocks": 1, "heads": 3, "group_channels": 4, "kernel_size": 3, "scale": 2}


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return save_weights(tmp_path / "best.safetensors", ("cat", "ship", "truck"))


@pytest.fixture
def restorer(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("dlgsanet", **TINY_DLGSANET)
    facts = RestorerFacts("dlgsanet", "bicubic x2", 16)
    save(model, tmp_path / "best.safetensors", extra=facts.to_header())
    return tmp_path / "best.safetensors"


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


def test_a_restoration_network_runs_on_any_size(restorer: Path) -> None:
    done = export(restorer)
    session = onnxruntime.InferenceSession(done.path)
    for height, width in ((20, 31), (40, 24)):
        image = torch.rand(1, 3, height, width)
        (answer,) = session.run(["answer"], {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(answer), load(restorer)(image).detach(), rtol=1e-3, atol=1e-4)
    told = json.loads(done.description.read_text())
    assert told["undoes"] == "bicubic x2"
    assert told["multiple"] == [1, 1]


def test_a_torch_program_gives_the_same_answers(classifier: Path, tmp_path: Path) -> None:
    done = export(classifier, format="torch", out=tmp_path / "new" / "model.pt2")
    assert done.path == tmp_path / "new" / "model.pt2"
    images = torch.rand(4, 3, 32, 32)
    answer = torch.export.load(done.path).module()(images)
    torch.testing.assert_close(answer, load(classifier)(images), rtol=1e-3, atol=1e-4)


def test_impossible_wishes_are_refused(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allowed is onnx or torch"):
        export(classifier, format="onyx")
    with pytest.raises(ValueError, match="nothing"):
        export(tmp_path / "nothing")
