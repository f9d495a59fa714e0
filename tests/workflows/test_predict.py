"""predict: names and probabilities for images, whatever else lies among them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ommatid.data import eval_transform
from ommatid.models import load
from ommatid.workflows.predict import predict

from .small import make_run, photographs, save_weights


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return photographs(tmp_path / "photographs")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_weights(tmp_path / "tiny.safetensors", ("cat", "ship", "truck"))


def test_probabilities_are_the_models_own(data: Path, weights: Path) -> None:
    image = sorted((data / "val" / "ship").iterdir())[0]
    (prediction,) = predict(weights, [image]).predictions
    with torch.inference_mode():
        logits = load(weights)(eval_transform(32)(Image.open(image).convert("RGB"))[None])[0]
    expected = sorted(zip(logits.softmax(0).tolist(), ("cat", "ship", "truck"), strict=True), reverse=True)
    assert [label.name for label in prediction.labels] == [name for _, name in expected]
    assert [label.probability for label in prediction.labels] == pytest.approx(
        [share for share, _ in expected], abs=1e-5
    )


def test_batch_changes_nothing(data: Path, weights: Path) -> None:
    whole, by_two = (predict(weights, [data / "val"], batch=batch).predictions for batch in (64, 2))
    assert len(whole) == 12
    assert [one.path for one in whole] == [one.path for one in by_two]
    for one, other in zip(whole, by_two, strict=True):
        assert [label.probability for label in one.labels] == pytest.approx(
            [label.probability for label in other.labels], abs=1e-5
        )


def test_top_is_at_most_all_classes(data: Path, weights: Path) -> None:
    assert {len(one.labels) for one in predict(weights, [data / "val"], top=2).predictions} == {2}
    assert {len(one.labels) for one in predict(weights, [data / "val"], top=9).predictions} == {3}


def test_run_folder_and_its_weights_answer_alike(data: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", data)
    assert predict(run.path, [data / "val"]) == predict(run.path / "best.safetensors", [data / "val"])


def test_bad_files_are_named_and_passed_over(data: Path, weights: Path) -> None:
    (data / "val" / "cat" / "empty.png").write_bytes(b"")
    (data / "val" / "cat" / "words.jpg").write_text("no image")
    cut = sorted((data / "val" / "ship").iterdir())[0]
    (data / "val" / "ship" / "cut.jpg").write_bytes(cut.read_bytes()[:300])
    found = predict(weights, [data / "val", data / "missing.png"])
    assert len(found.predictions) == 12
    assert sorted(Path(path).name for path, _ in found.skipped) == ["cut.jpg", "empty.png", "missing.png", "words.jpg"]
    assert all(reason for _, reason in found.skipped)


def test_files_hold_what_was_answered(data: Path, weights: Path, tmp_path: Path) -> None:
    (data / "val" / "cat" / "words.jpg").write_text("no image")
    out = tmp_path / "deep" / "answers"
    found = predict(weights, [data / "val"], top=2, out=out)
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [one.path for one in found.predictions]
    assert [(row["label"], row["label_2"]) for row in rows] == [
        tuple(label.name for label in one.labels) for one in found.predictions
    ]
    assert float(rows[0]["probability"]) == pytest.approx(found.predictions[0].labels[0].probability, abs=1e-6)
    stored = json.loads((out / "predictions.json").read_text())
    assert stored["predictions"][0]["labels"][0]["name"] == found.predictions[0].labels[0].name
    assert stored["skipped"][0]["path"].endswith("words.jpg")
    pictures = sorted((out / "pictures").iterdir())
    assert len(pictures) == len(found.predictions)
    assert Image.open(pictures[0]).height > 224  # the enlarged image and the text under it


def test_files_of_one_name_do_not_overwrite_each_other(weights: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 40), "red").save(tmp_path / folder / "same.png")
    predict(weights, [tmp_path / "a", tmp_path / "b"], pictures=tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").iterdir())) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top": 0}, "top = 0 is not possible"),
        ({"batch": 0}, "batch = 0 is not possible"),
        ({"device": "toaster"}, "device = 'toaster' is not possible"),
    ],
)
def test_impossible_values(data: Path, weights: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict(weights, [data / "val"], **settings)


def test_what_cannot_be_opened(data: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "corrupt.safetensors").write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ValueError, match="no run folder at"):
        predict(tmp_path / "nowhere", [data])
    with pytest.raises(ValueError, match="is not a run"):
        predict(tmp_path / "empty", [data])
    with pytest.raises(ValueError, match="is not a safetensors file"):
        predict(tmp_path / "corrupt.safetensors", [data])
    with pytest.raises(ValueError, match="holds no image"):
        predict(weights, [tmp_path / "empty"])
    with pytest.raises(ValueError, match="none of the 1 files can be read"):
        predict(weights, [tmp_path / "nothing.png"])
    with pytest.raises(ValueError, match="no image is named"):
        predict(weights, [])
