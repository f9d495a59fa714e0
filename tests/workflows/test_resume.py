"""A training that is killed loses at most an epoch, and ends where it would have ended."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ommatid.runs.alone import alone_in
from ommatid.runs.run import Run
from ommatid.workflows.train import train

KILLED = """
import json, os, signal, sys
import torch
from ommatid.tasks.classification import Classification
from ommatid.workflows.train import train

torch.set_num_threads(1)
moment, arguments = sys.argv[1], json.loads(sys.argv[2])


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def step_then_die(self, batch, batch_idx, step=Classification.training_step):
    if self.current_epoch == 1 and batch_idx == 2:
        die()
    return step(self, batch, batch_idx)


def write_half_then_die(checkpoint, path, save=torch.save):
    save(checkpoint, path)
    if checkpoint["global_step"] == 8:
        os.truncate(path, os.path.getsize(path) // 2)
        die()


if moment == "step":
    Classification.training_step = step_then_die
else:
    torch.save = write_half_then_die
train(**arguments)
"""


@pytest.fixture(scope="module")
def uninterrupted(few_digits: Path, tiny: dict[str, Any], busy_recipe: Path, tmp_path_factory: Any) -> Run:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    return Run.open(train(few_digits, recipe=busy_recipe, out=out, **tiny).run)


def start_and_kill(moment: str, **arguments: Any) -> None:
    command = [sys.executable, "-c", KILLED, moment, json.dumps(arguments, default=str)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


def assert_same_outcome(resumed: Run, expected: Run) -> None:
    for name in ("last.safetensors", "best.safetensors"):
        assert header_and_bytes(resumed.path / name) == header_and_bytes(expected.path / name), name
    ours, theirs = (torch.load(run.checkpoint, weights_only=True) for run in (resumed, expected))
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(ours["optimizer_states"], theirs["optimizer_states"], rtol=0, atol=0)
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    assert without_times(resumed) == without_times(expected)


def header_and_bytes(path: Path) -> tuple[dict[str, Any], bytes]:
    """Of a safetensors file: 8 bytes of length, a JSON header (whose order of keys is not defined), the tensors."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def without_times(run: Run) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name not in ("seconds", "waited")} for row in run.metrics()]


@pytest.mark.parametrize(("moment", "workers"), [("step", 0), ("checkpoint", 0), ("step", 2)])
def test_killed_and_resumed_ends_with_the_same_bytes(
    moment: str,
    workers: int,
    few_digits: Path,
    tiny: dict[str, Any],
    busy_recipe: Path,
    uninterrupted: Run,
    tmp_path: Path,
) -> None:
    start_and_kill(moment, data=few_digits, recipe=busy_recipe, out=tmp_path / "run", workers=workers, **tiny)
    killed = Run.open(tmp_path / "run")
    assert not killed.finished
    assert torch.load(killed.checkpoint, weights_only=True)["global_step"] == 4

    result = train(resume=killed.path, progress=False)

    assert result.epochs == 3
    assert Run.open(killed.path).finished
    assert_same_outcome(Run.open(killed.path), uninterrupted)


def test_killed_before_the_first_epoch_ended(
    few_digits: Path, tiny: dict[str, Any], busy_recipe: Path, uninterrupted: Run, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    Run.create(path, uninterrupted.config, uninterrupted.split, {})
    train(resume=path, progress=False)
    assert_same_outcome(Run.open(path), uninterrupted)


def test_resuming_a_finished_run_says_so_and_changes_nothing(
    uninterrupted: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.path.rglob("*")}
    result = train(resume=uninterrupted.path)
    assert "has finished: nothing to resume" in capsys.readouterr().err
    assert result.epochs == 3
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.path.rglob("*")} == before


def test_a_resumed_run_keeps_its_settings(uninterrupted: Run) -> None:
    with pytest.raises(ValueError, match=r"leave out .*lr"):
        train(resume=uninterrupted.path, lr=0.1)


def test_changed_data_is_refused(few_digits: Path, uninterrupted: Run, tmp_path: Path) -> None:
    data = Path(shutil.copytree(few_digits, tmp_path / "data"))
    split = uninterrupted.split
    Run.create(tmp_path / "run", uninterrupted.config | {"data": str(data)}, split, {})
    Run.create(tmp_path / "other", uninterrupted.config, split | {"fingerprint": "that of other labels"}, {})
    (data / split["train"][5]).unlink()
    with pytest.raises(ValueError, match=split["train"][5]):
        train(resume=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="start a new run"):
        train(resume=tmp_path / "other", progress=False)


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.yaml"):
        train(resume=tmp_path)
    with pytest.raises(ValueError, match="no run folder"):
        train(resume=tmp_path / "absent")


def test_a_run_that_is_being_trained_is_not_trained_twice(uninterrupted: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(uninterrupted.path, tmp_path / "run")))
    (run.path / "result.json").unlink()
    with alone_in(run.path), pytest.raises(ValueError, match=f"another process is at work in {run.path}"):
        train(resume=run.path)
    assert not run.finished
