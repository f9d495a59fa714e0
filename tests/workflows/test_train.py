import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ommatid.data import eval_transform, open_data
from ommatid.runs.run import COLUMNS, Run
from ommatid.runs.trained import open_trained
from ommatid.tasks.classification import Classification
from ommatid.workflows.train import TrainingError, train


@pytest.fixture(scope="module")
def run(few_digits: Path, tiny: dict[str, Any], busy_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("trained") / "run"
    return Run.open(train(few_digits, recipe=busy_recipe, lr=5e-3, out=out, **tiny).run)


def test_the_run_folder_is_complete(run: Run) -> None:
    assert {path.name for path in run.path.iterdir()} == {
        "best.safetensors",
        "checkpoints",
        "config.yaml",
        "curves.png",
        "last.safetensors",
        "machine.json",
        "metrics.csv",
        "result.json",
        "split.json",
    }
    assert run.finished
    assert run.classes == ("0", "1", "2")
    assert tuple(run.metrics()[0]) == COLUMNS
    assert [row["epoch"] for row in run.metrics()] == [1, 2, 3]
    assert run.metrics()[-1]["lr"] == pytest.approx(0)
    assert {"torch", "lightning", "ommatid"} <= set(run.machine)
    assert run.config["recipe"]["lr"] == 5e-3


def test_the_best_weights_are_as_good_as_said(run: Run, few_digits: Path) -> None:
    samples = open_data(few_digits, split=run.split).val
    model, transform = run.load_model(), eval_transform(run.size)
    with torch.inference_mode():
        answers = [model(transform(image)[None]).argmax().item() == label for image, label in samples]
    assert sum(answers) / len(answers) == pytest.approx(run.result["best_accuracy"])
    assert run.result["best_accuracy"] == max(row["val_accuracy"] for row in run.metrics())


def test_weights_alone_say_how_to_use_them(run: Run, tmp_path: Path) -> None:
    alone = Path(shutil.copy(run.weights(), tmp_path / "alone.safetensors"))
    trained = open_trained(alone)
    assert (trained.facts.classes, trained.facts.size, trained.facts.name) == (("0", "1", "2"), 32, "pvt_v2_b0")
    assert trained.run is None
    assert open_trained(run.path).run == run


def test_a_config_repeats_its_run(run: Run, tmp_path: Path) -> None:
    again = train(config=run.path / "config.yaml", out=tmp_path / "again", progress=False)
    ours, theirs = (load_file(folder / "last.safetensors") for folder in (again.run, run.path))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_what_is_given_beside_a_config_replaces_what_it_says(run: Run, tmp_path: Path) -> None:
    again = train(config=run.path / "config.yaml", epochs=1, seed=4, out=tmp_path / "again", progress=False)
    config = Run.open(again.run).config
    assert (again.epochs, config["seed"], config["recipe"]["lr"], config["set"]) == (1, 4, 5e-3, run.config["set"])


def test_one_line_per_epoch_where_there_is_no_terminal(
    few_digits: Path, tiny: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {**tiny, "recipe": "quick", "epochs": 1, "batch": 32}
    train(few_digits, **settings | {"progress": True}, out=tmp_path / "loud")
    told = capfd.readouterr()
    assert told.out == ""
    assert [line.split(":")[0] for line in told.err.splitlines()] == ["epoch 1/1"]
    train(few_digits, **settings, out=tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")


def test_bfloat16(few_digits: Path, tiny: dict[str, Any], busy_recipe: Path, run: Run, tmp_path: Path) -> None:
    settings = {"recipe": busy_recipe, "lr": 5e-3, "epochs": 1}
    train(few_digits, **tiny, **settings, precision="bfloat16", out=tmp_path / "run")
    trained = Run.open(tmp_path / "run")
    assert {tensor.dtype for tensor in load_file(trained.weights()).values()} == {torch.float32}
    assert trained.metrics()[0]["train_loss"] != run.metrics()[0]["train_loss"]
    assert trained.metrics()[0]["train_loss"] == pytest.approx(run.metrics()[0]["train_loss"], rel=0.02)


def test_the_precision_that_a_machine_has_is_chosen_once(
    few_digits: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ommatid.training.choices.instruction_sets", lambda: ["bf16"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = {**tiny, "recipe": "quick", "epochs": 1, "precision": "auto"}
    trained = Run.open(train(few_digits, **settings, out=tmp_path / "run").run)
    assert trained.config["recipe"]["precision"] == "bfloat16"
    assert 0 <= trained.result["waited_share"] < 1
    assert 0 < trained.metrics()[0]["waited"] < trained.metrics()[0]["seconds"]


def test_unreadable_files_are_named(
    few_digits: Path, tiny: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(few_digits, tmp_path / "data"))
    (data / "1" / "broken.png").write_bytes(b"not an image")
    train(data, **tiny | {"progress": True}, recipe="quick", epochs=1, out=tmp_path / "run")
    assert "1 files" in (told := capfd.readouterr().err)
    assert "1/broken.png" in told


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"epochs": 0}, "epochs = 0 is not possible: allowed is 1 or more"),
    ({"epochs": 1.5}, "epochs = 1.5 is not possible"),
    ({"lr": -0.1}, "lr = -0.1 is not possible"),
    ({"lr": 0.0}, "lr = 0.0 is not possible"),
    ({"batch": 0}, "batch = 0 is not possible"),
    ({"batch": 500}, r"batch = 500 is not possible: allowed is at most 7\d"),
    ({"size": 0}, "size = 0 is not possible"),
    ({"model": "vit_tiny", "set": {}, "size": 8}, "at least one patch of 16 a side"),
    ({"model": "convnext_tiny", "set": {"depths": [1, 1, 1, 1]}, "size": 16}, "size = 16 is not possible for ConvNeXt"),
    ({"precision": "half"}, "precision = 'half' is not possible: allowed is float32, bfloat16, float16, auto"),
    ({"devices": 9999}, "devices = 9999 is not possible: allowed is up to"),
    ({"devices": 0}, "devices = 0 is not possible"),
    ({"nodes": 3, "batch": 32}, "batch = 32 is not possible: allowed is a multiple of the 3 processes"),
    ({"strategy": "magic"}, "strategy = 'magic' is not possible: allowed is auto, ddp, fsdp"),
    ({"seed": -1}, "seed = -1 is not possible"),
    ({"workers": -1}, "workers = -1 is not possible"),
    ({"model": "pvt_v2_b00"}, r"no model is called 'pvt_v2_b00' \(did you mean 'pvt_v2_b0'"),
    ({"set": {"depth": [1]}}, r"has no field 'depth' \(did you mean 'depths'"),
    ({"set": {"num_classes": 5}}, "it follows from the data"),
    ({"recipe": "quik"}, r"no recipe is called 'quik' \(did you mean 'quick'"),
    ({"data": "no/such/folder"}, "no/such/folder does not exist"),
    ({"data": None}, "no data is named"),
    ({"weights": "absent.safetensors"}, r"no weights file at .*absent.safetensors"),
    ({"config": "absent.yaml"}, "absent.yaml cannot be read"),
]


@pytest.mark.parametrize(("change", "message"), IMPOSSIBLE)
def test_impossible_settings_are_answered_in_one_line_and_leave_nothing(
    change: dict[str, Any],
    message: str,
    few_digits: Path,
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"data": few_digits, "recipe": "quick", **tiny} | change
    with pytest.raises(ValueError, match=message) as caught:
        train(settings.pop("data"), **settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_overwritten(run: Run, few_digits: Path, tiny: dict[str, Any]) -> None:
    before = run.weights().read_bytes()
    with pytest.raises(ValueError, match="already holds a run"):
        train(few_digits, **tiny, out=run.path)
    assert run.weights().read_bytes() == before


def test_a_loss_that_is_no_number_stops_and_keeps_its_batch(
    few_digits: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "wild.yaml"
    recipe.write_text(yaml.safe_dump({"epochs": 3, "batch": 16, "lr": 1e30, "augmentation": {"mixup": 0.3}}))
    with pytest.raises(
        TrainingError, match=r"the loss became (nan|inf) in epoch \d, step \d+; its batch is in"
    ) as caught:
        train(few_digits, recipe=recipe, out=tmp_path / "run", **tiny)
    assert "\n" not in str(caught.value)
    (folder,) = (tmp_path / "run").glob("bad-batch-step*")
    batch = load_file(folder / "batch.safetensors")
    assert batch["images"].shape == (16, 3, 32, 32)
    assert batch["targets"].shape == (16, 3)
    assert (folder / "batch.png").is_file()
    assert not Run.open(tmp_path / "run").finished


def test_ctrl_c_stays_an_interrupt_and_the_run_can_be_resumed(
    few_digits: Path, tiny: dict[str, Any], busy_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Classification.training_step

    def interrupted(self: Classification, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classification, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(few_digits, recipe=busy_recipe, out=tmp_path / "run", **tiny)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    monkeypatch.setattr(Classification, "training_step", step)
    assert train(resume=tmp_path / "run", progress=False).epochs == 3


def test_fine_tuning_starts_from_the_weights(run: Run, few_digits: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "still.yaml"
    recipe.write_text(yaml.safe_dump({"epochs": 1, "batch": 64, "lr": 1e-12}))
    tuned = train(few_digits, weights=run.weights(), recipe=recipe, out=tmp_path / "run", progress=False)
    config = Run.open(tuned.run).config
    assert (config["model"], config["size"]) == ("pvt_v2_b0", 32)
    ours, theirs = load_file(tuned.run / "last.safetensors"), load_file(run.weights())
    torch.testing.assert_close(ours, theirs)


def test_digits_are_not_mirrored(
    few_digits: Path, tiny: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = tiny | {"recipe": "default", "epochs": 1, "progress": True}
    digits = train("digits", **settings, out=tmp_path / "digits").run
    assert "the recipe's flip is left out" in capfd.readouterr().err
    assert Run.open(digits).config["recipe"]["augmentation"]["flip"] == 0
    folder = train(few_digits, **settings, out=tmp_path / "folder").run
    assert "flip" not in capfd.readouterr().err
    assert Run.open(folder).config["recipe"]["augmentation"]["flip"] == 0.5


@pytest.mark.slow
def test_the_quick_recipe_learns_the_digits(tmp_path: Path) -> None:
    assert train("digits", recipe="quick", out=tmp_path / "run", progress=False).best_accuracy > 0.98
