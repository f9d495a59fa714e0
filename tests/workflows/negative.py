"""What the tests of `restore` share: a network whose answers are known beforehand, and pictures of noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ommatid.models.config import PartConfig
from ommatid.models.restorer import Restorer
from ommatid.workflows.restore import Restorations

Into = Callable[..., Restorations]
"""Restores pictures into a folder of the test's own: (*paths, **options)."""


@dataclass(frozen=True)
class NegativeConfig(PartConfig):
    scale: int = 1
    in_channels: int = 3
    value: float = 1.0


class Negative(Restorer):
    """Gives `value` minus the picture, every pixel repeated: all of an answer is known beforehand."""

    multiple = (4, 4)

    def __init__(self, config: NegativeConfig) -> None:
        super().__init__(config)
        self.scale = config.scale
        self.channels, self.value = config.in_channels, config.value
        self.seen: list[torch.Size] = []

    def restore(self, image: Tensor) -> Tensor:
        assert image.shape[1] == self.channels
        self.seen.append(image.shape)
        return self.value - F.interpolate(image, scale_factor=self.scale)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


Make = Callable[..., Negative]
"""Makes the network that `restore` opens, of the fields of its configuration."""
