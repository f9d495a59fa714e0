"""Compression."""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ommatid.data.degrade.step import Range, Strength


@dataclass(frozen=True)
class Jpeg(Strength):
    """Written as a JPEG by Pillow, colours at half the resolution (4:2:0), and read again."""

    word = "jpeg"
    allowed = Range(1, 100)
    meaning = "quality"
    grid = 16  # of colours, whose blocks of 8 x 8 are at half the resolution

    @property
    def reach(self) -> int:
        return self.grid

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        quality = round(self.strength.draw(generator))
        pixels = (picture * 255).round().clamp(0, 255).byte()
        file = io.BytesIO()
        F.to_pil_image(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        with Image.open(file) as image:
            return F.pil_to_tensor(image) / 255
