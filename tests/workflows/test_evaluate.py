"""evaluate: its numbers against an independent count, its files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, log_loss, precision_score, recall_score

from ommatid.workflows.evaluate import evaluate, judge

from .small import make_run, photographs, save_weights

CLASSES = ("cat", "ship", "truck")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return photographs(tmp_path / "photographs")


def random_answers(images: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(images, classes, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    return (logits + torch.nn.functional.one_hot(labels, classes)).softmax(1), labels


def test_numbers_agree_with_scikit_learn() -> None:
    shares, labels = random_answers(300, 7)
    result = judge(shares, labels, [f"class {index}" for index in range(7)])
    predicted, true = shares.argmax(1).numpy(), labels.numpy()
    assert result["accuracy"] == pytest.approx((predicted == true).mean())
    assert result["loss"] == pytest.approx(log_loss(true, shares.double().numpy(), labels=range(7)), rel=1e-5)
    assert result["confusion"] == confusion_matrix(true, predicted).tolist()
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert [row[name] for row in result["per_class"]] == pytest.approx(
            score(true, predicted, average=None).tolist()
        )
    assert [row["support"] for row in result["per_class"]] == np.bincount(true, minlength=7).tolist()
    fifth = np.sort(shares.numpy(), axis=1)[:, -5]
    assert result["top5"] == pytest.approx((shares.numpy()[np.arange(300), true] >= fifth).mean())


def test_calibration_is_the_weighted_gap_of_the_bins() -> None:
    shares, labels = random_answers(300, 7)
    result = judge(shares, labels, list("abcdefg"))
    gap = sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in result["reliability"]) / 300
    assert sum(row["count"] for row in result["reliability"]) == 300
    assert result["calibration_error"] == pytest.approx(gap, abs=1e-6)


def test_a_class_without_images_has_zero_support() -> None:
    result = judge(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]), torch.tensor([0, 1]), CLASSES)
    assert result["accuracy"] == 1
    assert result["per_class"][2] == {"name": "truck", "precision": 0, "recall": 0, "f1": 0, "support": 0}


def test_a_run_is_judged_on_its_own_validation_part(data: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", data)
    result = evaluate(run.path)
    assert result["samples"] == 12
    named = evaluate(run.path, data, batch=5)
    assert named["confusion"] == result["confusion"]
    assert named["loss"] == pytest.approx(result["loss"], abs=1e-5)


def test_images_of_the_training_are_never_judged(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "digits", size=32)
    result = evaluate(run.path, "digits")
    assert result["samples"] == len(run.split["val"])
    assert evaluate(run.path / "best.safetensors", "digits")["samples"] == len(run.split["val"])


def test_the_runs_own_data_is_known_from_any_working_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", data / "train")  # which is split by chance: it has no validation part of its own
    monkeypatch.chdir(data)
    assert evaluate(run.path, "train")["samples"] == len(run.split["val"]) < 18


def test_files(data: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", data)
    result = evaluate(run.path, out=tmp_path / "judged")
    page = Path(result["report"])
    assert page == tmp_path / "judged" / "report.html"
    assert "Confusion matrix" in page.read_text()
    stored = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    assert stored["accuracy"] == result["accuracy"]
    assert (tmp_path / "judged" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    wrong = round((1 - result["accuracy"]) * result["samples"])
    assert len(result["mistakes"]) == wrong > 0
    sure = [mistake["confidence"] for mistake in result["mistakes"]]
    assert sure == sorted(sure, reverse=True)
    assert all(mistake["truth"] != mistake["prediction"] for mistake in result["mistakes"])
    assert all(mistake["image"].startswith("data:image/png;base64,") for mistake in result["mistakes"])


def test_by_default_the_page_lies_beside_the_weights(data: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", data)
    assert Path(evaluate(run.path)["report"]) == run.path / "evaluation-photographs" / "report.html"


def test_classes_are_matched_by_name(data: Path, tmp_path: Path) -> None:
    straight = save_weights(tmp_path / "straight.safetensors", CLASSES)
    turned = save_weights(tmp_path / "turned.safetensors", CLASSES[::-1])
    one, other = evaluate(straight, data)["confusion"], evaluate(turned, data)["confusion"]
    # The same weights under reversed names: the same columns are predicted, the rows change places.
    assert other == one[::-1]


def test_data_with_fewer_classes_than_the_model(tmp_path: Path) -> None:
    weights = save_weights(tmp_path / "tiny.safetensors", CLASSES)
    result = evaluate(weights, photographs(tmp_path / "two", ("truck", "cat")))
    assert [row["support"] for row in result["per_class"]] == [4, 0, 4]


def test_a_label_never_seen_in_training(data: Path, tmp_path: Path) -> None:
    weights = save_weights(tmp_path / "tiny.safetensors", ("cat", "ship"))
    with pytest.raises(ValueError, match="label 'truck' was never seen in training"):
        evaluate(weights, data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch = 0 is not possible"),
        ({"size": -3}, "size = -3 is not possible"),
        ({"device": "toaster"}, "device = 'toaster' is not possible"),
    ],
)
def test_impossible_values(data: Path, tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(save_weights(tmp_path / "tiny.safetensors", CLASSES), data, **settings)


def test_what_cannot_be_opened(data: Path, tmp_path: Path) -> None:
    weights = save_weights(tmp_path / "tiny.safetensors", CLASSES)
    (tmp_path / "empty").mkdir()
    (tmp_path / "corrupt.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="no run folder at"):
        evaluate(tmp_path / "nowhere", data)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        evaluate(tmp_path / "corrupt.safetensors", data)
    with pytest.raises(ValueError, match="name the data"):
        evaluate(weights)
    with pytest.raises(ValueError, match="does not exist"):
        evaluate(weights, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="empty"):
        evaluate(weights, tmp_path / "empty")


def test_an_attack_takes_accuracy_and_stays_within_its_reach(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", photographs(tmp_path / "photographs"))
    result = evaluate(run.path, attack="pgd 8/255 x3")
    attack = result["attack"]
    assert (attack["steps"], attack["step_size"]) == (3, pytest.approx(2 / 255))
    assert attack["accuracy_before"] == result["accuracy"]
    assert attack["accuracy"] < result["accuracy"]
    assert len(attack["examples"]) == round((result["accuracy"] - attack["accuracy"]) * result["samples"])
    assert "under pgd 8/255 x3" in result["summary"]
    assert "Under attack" in Path(result["report"]).read_text()
    assert evaluate(run.path, attack="pgd 0 x1")["attack"]["accuracy"] == result["accuracy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pdg 8/255", "allowed is 'pgd 8/255 x10'"),
        ("pgd 8/0", "'8/0' is no number"),
        ("pgd 8", "epsilon = 8.0 is not possible: allowed is from 0 to 1"),
        ("fgsm 8/255 x3", "fgsm is one step"),
    ],
)
def test_attacks_that_cannot_be_are_refused(tmp_path: Path, words: str, message: str) -> None:
    weights = save_weights(tmp_path / "weights.safetensors", CLASSES)
    with pytest.raises(ValueError, match=message):
        evaluate(weights, "digits", attack=words)
