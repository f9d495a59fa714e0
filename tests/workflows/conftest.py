"""Trainings small enough for tests, and a network for `restore` whose answers are known beforehand."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from ommatid.data import open_data
from ommatid.models import create_model, save
from ommatid.runs.trained import RestorerFacts, TrainedRestorer
from ommatid.workflows.restore import restore

from .negative import Into, Make, Negative, NegativeConfig


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 96 handwritten digits: 32 each of 0, 1 and 2."""
    folder = tmp_path_factory.mktemp("few_digits")
    samples = open_data("digits").train
    for label in range(3):
        (folder / str(label)).mkdir()
        chosen = [index for index, known in enumerate(samples.labels) if known == label][:32]
        for index in chosen:
            image: Image.Image = samples[index][0]
            image.save(folder / str(label) / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """A model of some thousand parameters, as arguments of `train`."""
    shape = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2]}
    return {"model": "pvt_v2_b0", "set": shape, "size": 32, "progress": False}


@pytest.fixture(scope="session")
def busy_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that uses everything that is random or remembered between steps."""
    path = tmp_path_factory.mktemp("recipes") / "busy.yaml"
    augmentation = {"crop": "resized", "flip": 0.5, "rand_augment": 5, "erasing": 0.3, "mixup": 0.2, "cutmix": 0.5}
    recipe = {"epochs": 3, "batch": 16, "lr": 2e-3, "warmup_epochs": 1, "label_smoothing": 0.1, "ema": 0.9}
    path.write_text(yaml.safe_dump(recipe | {"clip": 1.0, "drop_path": 0.2, "augmentation": augmentation}))
    return path


@pytest.fixture(scope="session")
def two_workers() -> Iterator[str]:
    """A Ray cluster of two workers on this machine; what to say for its address."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'ommatid[scale]')")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield "local"
    ray.shutdown()


@pytest.fixture
def negative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    """Makes the network that `restore` opens; its configuration is what its weights file holds."""
    weights = tmp_path / "negative.safetensors"

    def made(**fields: float) -> Negative:
        model = Negative(NegativeConfig(**fields))  # type: ignore[arg-type]
        weights.write_text(json.dumps(fields))
        facts = RestorerFacts("negative", "bicubic x2", 48)
        opened = TrainedRestorer(model, facts, weights, None)
        monkeypatch.setattr("ommatid.workflows.restore.open_picture_restorer", lambda run: opened)
        return model

    return made


@pytest.fixture
def into_out(tmp_path: Path) -> Into:
    return lambda *paths, **options: restore("run", paths, out=tmp_path / "out", progress=False, **options)


@pytest.fixture
def tiny_restorer(tmp_path: Path) -> Path:
    """A tiny network of a registered family, as a training would have saved it."""
    torch.manual_seed(0)
    model = create_model("hat", dim=12, depths=[1], heads=[2], window_size=8, compress_ratio=3, squeeze_factor=3)
    path = tmp_path / "tiny.safetensors"
    save(model, path, extra=RestorerFacts("hat", "bicubic x2", 48).to_header())
    return path
