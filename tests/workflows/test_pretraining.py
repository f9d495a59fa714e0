"""The task pre-training through the verbs: train, resume, fine-tune from its weights, evaluate."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_image

from ommatid.cli.app import main
from ommatid.methods.pretraining.guessing import Guesser
from ommatid.methods.pretraining.learner import Learner
from ommatid.methods.pretraining.view_matching import ViewMatcher
from ommatid.models.weights import read_header
from ommatid.runs.run import Run
from ommatid.runs.trained import open_trained
from ommatid.training.recipes import load_recipe
from ommatid.workflows.evaluate import evaluate
from ommatid.workflows.train import train

SWIN = {"dims": [8, 16], "depths": [1, 1], "heads": [1, 2], "window_size": 4}
SWIN_V2 = SWIN | {"pretrained_window_sizes": [0, 0]}
EVA = {"dim": 16, "depth": 1, "heads": 2, "patch_size": 8}
CONVNEXT = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
RESNET = CONVNEXT | {"ibn": [None] * 4}
VIT = {"dim": 16, "depth": 2, "heads": 2, "patch_size": 8}
SMALL: dict[str, Any] = {"task": "pretraining", "size": 32, "epochs": 2, "batch": 4, "progress": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty parts of a photograph, in two folders that could be classes."""
    folder = tmp_path_factory.mktemp("pictures")
    photograph = load_sample_image("china.jpg")
    for number in range(20):
        part = folder / ("even" if number % 2 == 0 else "odd")
        part.mkdir(exist_ok=True)
        top, left = 80 * (number // 4), 80 * (number % 4)
        Image.fromarray(photograph[top : top + 80, left : left + 80]).save(part / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("trained") / "run"
    return Run.open(train(data, model="swin", set=SWIN, method="simmim", out=out, **SMALL).run)


def call(*words: object) -> int:
    """The command line: its exit code."""
    with pytest.raises(SystemExit) as exit:
        main([str(word) for word in words])
    return int(exit.value.code or 0)


def test_from_pictures_to_a_classifier_at_the_command_line(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fields = [word for name, value in SWIN.items() for word in ("--set", f"{name}={value}")]
    shape = ["--size", "32", "--batch", "4", "--epochs", "1"]
    words = ["train", data, "--task", "pretraining", "--model", "swin_tiny", "--method", "simmim[mask_ratio=0.5]"]
    assert call(*words, *fields, *shape, "--out", tmp_path / "pretrained") == 0
    assert "best validation agreement" in capfd.readouterr().out
    begin = ["train", data, "--model", "swin_tiny", "--weights", tmp_path / "pretrained", *shape]
    assert call(*begin, "--out", tmp_path / "fine") == 0
    told = capfd.readouterr().err
    assert "the head (head.weight, head.bias) starts fresh, the other" in told
    assert Run.open(tmp_path / "fine").classes == ("even", "odd")


def test_the_run_holds_the_backbone_alone(run: Run) -> None:
    assert tuple(run.metrics()[0]) == (
        "epoch",
        "train_loss",
        "val_loss",
        "val_agreement",
        "lr",
        "seconds",
        "waited",
    )
    assert run.result["best_agreement"] == max(row["val_agreement"] for row in run.metrics())
    header = read_header(run.weights())
    assert (header["task"], header["family"], header["image_size"]) == ("pretraining", "swin", "32")
    assert run.load_model()(torch.rand(1, 3, 32, 32)).shape == (1, 16)


def test_fine_tuning_starts_from_what_was_learned(run: Run, data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "still.yaml"
    recipe.write_text("epochs: 1\nbatch: 4\nlr: 1.0e-30\nweight_decay: 0.0\n")
    tuned = train(data, weights=run.path, recipe=recipe, out=tmp_path / "tuned", progress=False)
    learned, found = load_file(run.weights()), load_file(Run.open(tuned.run).weights())
    assert set(found) - set(learned) == {"head.weight", "head.bias"}
    assert all(torch.equal(found[name], learned[name]) for name in learned)


def cut(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], whole: Path, steps: int, kind: type[Learner] = Guesser
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The last weights of a whole training, and of one that was stopped before step `steps` and resumed."""
    plain, taken = kind.forward, []

    def stopping(self: Learner, *batch: torch.Tensor) -> torch.Tensor:
        taken.append(batch)
        if len(taken) > steps + 1:  # one is tried beforehand
            raise KeyboardInterrupt
        return plain(self, *batch)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "forward", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(**settings)
    train(resume=settings["out"], progress=False)
    ours, theirs = (load_file(folder / "last.safetensors") for folder in (settings["out"], whole))
    return ours, theirs


def test_resumed_it_ends_the_same(run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SMALL | {"data": data, "model": "swin", "set": SWIN, "method": "simmim", "out": tmp_path / "cut"}
    ours, theirs = cut(monkeypatch, settings, run.path, steps=6)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("model", "fields", "method"),
    [
        ("swin_v2", SWIN_V2, "simmim[norm_target=7]"),
        ("eva", EVA, "simmim"),
        ("vit", VIT, "simmim[mask_patch=16,mask_ratio=0.75]"),
    ],
)
def test_backbones_learn(model: str, fields: dict[str, Any], method: str, data: Path, tmp_path: Path) -> None:
    result = train(data, model=model, set=fields, method=method, out=tmp_path / "run", **SMALL)
    assert all(0 < row["val_loss"] < 10 for row in result.curve)
    assert "head.weight" not in load_file(Run.open(result.run).weights())


@pytest.mark.parametrize(("model", "fields"), [("convnext_tiny", CONVNEXT), ("resnet18_ibn_a", RESNET)])
def test_convolutional_networks_learn_and_resume(
    model: str, fields: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SMALL | {"data": data, "model": model, "set": fields, "method": "spark[width=32]", "size": 64}
    whole = train(**settings, out=tmp_path / "whole")
    assert all(0 < row["val_loss"] < 10 for row in whole.curve)
    ours, theirs = cut(monkeypatch, settings | {"out": tmp_path / "cut"}, whole.run, steps=6)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    tuned = train(data, weights=whole.run, recipe="finetune", epochs=1, batch=4, out=tmp_path / "t", progress=False)
    assert Run.open(tuned.run).config["model"] == model


def test_views_are_matched_and_resume(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = "pixpro[inner_dim=16,out_dim=8,momentum=0.5,instance_weight=0.5]"
    settings = SMALL | {"data": data, "model": "resnet18_ibn_a", "set": RESNET, "method": method, "size": 64}
    whole = train(**settings, out=tmp_path / "whole")
    assert all(0 < row["val_loss"] < 12 for row in whole.curve)
    # the two validation pictures of the first epoch go through it too
    ours, theirs = cut(monkeypatch, settings | {"out": tmp_path / "cut"}, whole.run, steps=8, kind=ViewMatcher)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(ValueError, match="guesses no pictures"):
        evaluate(whole.run)


def test_an_evaluation_shows_what_was_guessed(run: Run, data: Path, tmp_path: Path) -> None:
    found = evaluate(run.path)
    last = run.metrics()[-1]
    assert found["agreement"] == pytest.approx(last["val_agreement"], abs=5e-3)  # the training was in lower precision
    assert found["loss"] == pytest.approx(last["val_loss"], rel=1e-2)
    assert "Guessed worst" in Path(found["report"]).read_text()
    shown = found["worst"][0]
    pictures = {shown[name] for name in ("seen", "prediction", "original")}
    assert len(pictures) == 3
    assert all(picture.startswith("data:image/jpeg") for picture in pictures)
    assert evaluate(run.weights(), data, size=64, out=tmp_path / "larger")["samples"] == 2


def test_a_backbone_by_itself_guesses_nothing(run: Run, tmp_path: Path) -> None:
    alone = shutil.copy(run.weights(), tmp_path / "alone.safetensors")
    with pytest.raises(ValueError, match="holds a backbone alone: name its run"):
        evaluate(alone)
    with pytest.raises(ValueError, match="is of a pretraining, which tells no classes apart"):
        open_trained(alone)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": None}, "method = None is not possible: allowed is simmim, spark, pixpro for"),
        ({"method": "ewa"}, "method = 'ewa' is not possible"),
        (
            {"model": "pvt_v2_b0", "set": {}},
            "model = 'pvt_v2_b0' is not possible: allowed is a swin, swin_v2, eva or vit",
        ),
        ({"task": "classification"}, "method = 'simmim' is not possible: allowed is for pretraining"),
        ({"method": "simmim[mask_ratio=1.5]"}, "mask_ratio = 1.5 is not possible"),
        ({"method": "simmim[mask_patch=6]"}, "mask_patch = 6 is not possible: allowed is a multiple of 4"),
        ({"method": "simmim[mask_patch=32]"}, "size = 32 is not possible: allowed is a multiple of 32 of which"),
        ({"method": "spark"}, "model = 'swin' is not possible: allowed is a convnext, or an ibn_net with"),
        ({"method": "spark", "model": "resnet18_ibn_a", "set": {}}, "model = 'resnet18_ibn_a' is not possible"),
        (
            {"method": "spark[width=32]", "model": "convnext", "set": CONVNEXT},
            "size = 32 is not possible: allowed is a multiple of 32 of which",
        ),
        ({"recipe": "default"}, "mixup = 0.2 is not possible: allowed is 0 for pretraining"),
        ({"degrade": "noise 5"}, "it is for the task restoration alone"),
    ],
)
def test_what_cannot_be_is_said_first(changes: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    settings = SMALL | {"model": "swin", "set": SWIN, "method": "simmim", "out": tmp_path / "run"} | changes
    with pytest.raises(ValueError, match=message):
        train(data, **settings)
    assert not (tmp_path / "run").exists()


def test_the_recipe_mixes_no_labels() -> None:
    recipe = load_recipe("pretrain")
    assert (recipe.augmentation.mixup, recipe.augmentation.cutmix, recipe.label_smoothing) == (0, 0, 0)
