"""A training with its experts on two processes ends where one process does, also when one of the two is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ommatid.runs.run import Run
from ommatid.workflows.train import train

from .small import TINY_SWIN_MOE, environment

SCRIPT = """
import json, os, signal, sys
import torch
from ommatid.tasks.training import Training
from ommatid.training.methods.spreading import Spread
from ommatid.workflows.train import train

torch.set_num_threads(1)
moment, arguments = sys.argv[1:]


def step_or_die(self, batch, batch_idx):
    if moment == "killed" and (self.current_epoch, batch_idx, self.global_rank) == (1, 1, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return Training.training_step(self, batch, batch_idx)


Spread.training_step = step_or_die
try:
    train(**json.loads(arguments))
except ValueError as error:
    sys.exit(f"error: {error}")
"""

SWIN_MOE = TINY_SWIN_MOE | {"capacity_factor": 0, "gate_noise": 0, "balance_loss": "gshard"}


def run_script(folder: Path, moment: str, **arguments: Any) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script, moment, json.dumps(arguments | {"progress": False}, default=str)]
    settings = environment() | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=settings, cwd=folder, capture_output=True, text=True, timeout=400)


@pytest.mark.skipif(os.cpu_count() == 1, reason="needs two processors")
def test_a_killed_process_stops_the_training_clearly_and_it_resumes(few_digits: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"epochs": 2, "batch": 16, "lr": 1e-3, "ema": 0.9, "clip": 1.0}))
    settings = {"data": few_digits, "model": "swin_moe", "set": SWIN_MOE, "recipe": recipe, "size": 16}
    one = Run.open(train(**settings, out=tmp_path / "one", progress=False).run)

    spread = {"out": tmp_path / "two", "devices": 2, "strategy": "ddp", "method": "spread"}
    killed = run_script(tmp_path, "killed", **settings, **spread)
    assert killed.returncode == 1
    assert "another process of the training has ended" in killed.stderr
    assert "Traceback" not in killed.stderr
    resumed = run_script(tmp_path, "resumed", resume=tmp_path / "two")
    assert resumed.returncode == 0, resumed.stderr

    two = Run.open(tmp_path / "two")
    for ours, theirs in zip(two.metrics(), one.metrics(), strict=True):
        for name in ("train_loss", "val_loss", "val_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name
    torch.testing.assert_close(
        load_file(two.weights(best=False)), load_file(one.weights(best=False)), rtol=1e-4, atol=1e-5
    )


def test_what_cannot_be_spread_is_refused(few_digits: Path) -> None:
    settings: dict[str, Any] = {"data": few_digits, "model": "swin_moe", "progress": False, "size": 16}
    with pytest.raises(ValueError, match=r"devices = 1 .* 2 or more processes"):
        train(**settings, set=SWIN_MOE, method="spread")
    two = settings | {"devices": 2, "strategy": "ddp"}
    with pytest.raises(ValueError, match=r"number of experts = 3 .* a multiple of the 2 processes"):
        train(**two, set=SWIN_MOE | {"num_experts": 3}, method="spread")
    with pytest.raises(ValueError, match=r"sharing = 3 .* a divisor of the 2 processes"):
        train(**two, set=SWIN_MOE, method="spread[sharing=3]")
