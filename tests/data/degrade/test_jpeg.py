from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from ommatid.data.degrade.jpeg import Jpeg
from ommatid.data.degrade.step import Range


def test_is_what_pillow_makes_of_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 45, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=35)  # 4:2:0 is Pillow's default
    picture = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    made = Jpeg(Range(35, 35))(picture, torch.Generator())
    assert torch.equal((made * 255).round().byte().permute(1, 2, 0), torch.from_numpy(np.array(Image.open(file))))


def test_values_beyond_the_range_are_clipped() -> None:
    made = Jpeg(Range(95, 95))(torch.full((3, 16, 16), 1.3), torch.Generator())
    assert made.min() == made.max() == 1


def test_the_lower_the_quality_the_further_off() -> None:
    picture = torch.rand(3, 64, 64)
    errors = [(Jpeg(Range(q, q))(picture, torch.Generator()) - picture).square().mean() for q in (10, 50, 95)]
    assert errors[0] > errors[1] > errors[2]
