"""Trainings small enough for tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from ommatid.data import open_data


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
