"""Compression."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ommatid.data.degrade.step import Range


@dataclass(frozen=True)
class Jpeg:
    """Written as a JPEG by Pillow, colours at half the resolution (4:2:0), and read again."""

    strength: Range
    allowed: ClassVar = Range(1, 100)
    usual: ClassVar = None
    meaning: ClassVar = "quality"
    scale: ClassVar = 1
    reach: ClassVar = 16  # the side of a block of colours

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        quality = round(self.strength.draw(generator))
        pixels = (picture * 255).round().clamp(0, 255).byte()
        file = io.BytesIO()
        F.to_pil_image(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        with Image.open(file) as image:
            return F.pil_to_tensor(image) / 255

    def __str__(self) -> str:
        return f"jpeg {self.strength}"
