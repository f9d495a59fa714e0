"""Epochs for a time: here by a clock that ticks once a batch."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from ommatid.runs.run import Run
from ommatid.training import pace
from ommatid.workflows.train import train


@pytest.fixture
def data(tmp_path: Path) -> Path:
    from ommatid.data import open_data

    samples = open_data("digits").train
    for label in range(2):
        (tmp_path / "digits" / str(label)).mkdir(parents=True)
        chosen = [index for index, known in enumerate(samples.labels) if known == label][:50]
        for index in chosen:
            samples[index][0].save(tmp_path / "digits" / str(label) / f"{index}.png")
    return tmp_path / "digits"


SETTINGS: dict[str, Any] = {
    "model": "pvt_v2_b0",
    "set": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2]},
    "recipe": "quick",
    "batch": 20,
    "size": 32,
    "progress": False,
}


def test_epochs_follow_from_the_time_of_a_step(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    # Each batch takes one second: an epoch has 4 of training and 1 of validation.
    run = Run.open(train(data, minutes=10 / 60, out=tmp_path / "run", **SETTINGS).run)
    assert run.config["recipe"]["epochs"] == 2
    assert len(run.metrics()) == 2


def test_trying_the_pace_leaves_the_training_as_it_is(data: Path, tmp_path: Path) -> None:
    timed = Run.open(train(data, minutes=1e-6, out=tmp_path / "timed", **SETTINGS).run)
    plain = Run.open(train(data, epochs=1, out=tmp_path / "plain", **SETTINGS).run)
    assert timed.config == plain.config
    assert_close(load_file(timed.weights()), load_file(plain.weights()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 0.0}, "minutes = 0.0 is not possible"),
        ({"minutes": float("nan")}, "minutes = nan is not possible"),
        ({"minutes": 1.0, "epochs": 2}, "either minutes or epochs"),
        ({"minutes": 1.0, "devices": 2}, "for one process"),
    ],
)
def test_impossible_times(data: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(data, out=tmp_path / "run", **(SETTINGS | changes))
    assert not (tmp_path / "run").exists()
