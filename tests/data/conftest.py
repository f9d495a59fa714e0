"""Small image folders, written where a test may break them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_image(path: Path, seed: int = 0, size: int = 8) -> Path:
    """Write a small noise image, different for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """A function writing counts of PNGs: make_folder(cat=3, dog=2), or make_folder(**{"train/cat": 3})."""

    def make(**counts: int) -> Path:
        root = tmp_path / "images"
        for folder, count in counts.items():
            for index in range(count):
                write_image(root / folder / f"{index:02d}.png", seed=len(folder) * 1000 + index)
        return root

    return make


@pytest.fixture(scope="session")
def cifar10(shared_data: Path) -> Path:
    """Real photographs of 32x32, as an image folder with train/ and test/."""
    return shared_data / "cifar10"
