"""quantize: a file of 8-bit integers that other verbs take, as good as the model to the tolerance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ommatid.data import eval_transform, open_data
from ommatid.runs.trained import open_trained
from ommatid.workflows.evaluate import evaluate
from ommatid.workflows.opening import open_classifier
from ommatid.workflows.quantize import quantize
from ommatid.workflows.train import train

pytest.importorskip("nncf", reason="nncf is not installed")


@pytest.fixture(scope="module")
def run(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape: dict[str, Any] = {"dims": [8, 16], "depths": [1, 1], "mixer": "window", "channel_mixer": "conv_glu"}
    out = tmp_path_factory.mktemp("runs") / "run"
    train(few_digits, model="pyramid", set=shape, size=32, epochs=3, batch=16, out=out, progress=False)
    return out


@pytest.mark.parametrize(
    ("format", "name", "mark"),
    [("openvino", "best.int8.xml", b"FakeQuantize"), ("onnx", "best.int8.onnx", b"QuantizeLinear")],
)
def test_the_file_is_as_good_smaller_inside_and_taken_by_other_verbs(
    run: Path, format: str, name: str, mark: bytes
) -> None:
    done = quantize(run, format=format, tolerance="100 points")
    assert done.path.name == name
    assert mark in done.path.read_bytes()
    told = json.loads(done.description.read_text())
    assert told["quantized"]["after"]["accuracy"] == done.after.accuracy
    assert done.in_float == ()
    trained, integers = open_trained(run), open_classifier(done.path)
    data = open_data(str(trained.run.config["data"]), split=trained.run.split).val
    images = torch.stack([eval_transform(32)(data[index][0]) for index in range(8)])
    with torch.no_grad():
        expected, answer = trained.model(images), integers.model(images)
    assert 0 < (answer - expected).abs().max() < 0.5 * expected.abs().max()
    assert evaluate(done.path, out=run / f"judged-{format}")["accuracy"] == pytest.approx(done.after.accuracy)


def test_other_words_and_other_places_are_refused(run: Path) -> None:
    with pytest.raises(ValueError, match='as in "1 point"'):
        quantize(run, tolerance="a little")
    with pytest.raises(ValueError, match=r"ends in \.xml"):
        quantize(run, out=run / "model.onnx")
    with pytest.raises(ValueError, match="openvino or onnx"):
        quantize(run, format="torch")
