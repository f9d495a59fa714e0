"""Two processes train as one does: the same global batches, the same mean gradient."""

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

SCRIPT = """
import json, sys
import torch
from ommatid.workflows.train import train

torch.set_num_threads(1)
train(**json.loads(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def plain_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random per image only: what is drawn per batch (mixing, stochastic depth) is not the same for a shared one."""
    path = tmp_path_factory.mktemp("recipes") / "plain.yaml"
    augmentation = {"crop": "resized", "flip": 0.5, "erasing": 0.3}
    path.write_text(yaml.safe_dump({"epochs": 2, "batch": 16, "lr": 1e-3, "ema": 0.9, "augmentation": augmentation}))
    return path


@pytest.mark.skipif(os.cpu_count() == 1, reason="needs two processors")
def test_two_processes_end_where_one_does(
    few_digits: Path, tiny: dict[str, Any], plain_recipe: Path, tmp_path: Path
) -> None:
    settings = {"data": few_digits, "recipe": plain_recipe, **tiny}
    one = Run.open(train(**settings, out=tmp_path / "one").run)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    arguments = json.dumps(settings | {"out": tmp_path / "two", "devices": 2, "strategy": "ddp"}, default=str)
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, script, arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    two = Run.open(tmp_path / "two")

    assert not (tmp_path / "runs").exists()
    for ours, theirs in zip(two.metrics(), one.metrics(), strict=True):
        for name in ("train_loss", "val_loss", "val_accuracy", "val_macro_accuracy", "lr"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name
    torch.testing.assert_close(
        load_file(two.weights(best=False)), load_file(one.weights(best=False)), rtol=1e-4, atol=1e-5
    )
