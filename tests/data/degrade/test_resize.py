from __future__ import annotations

import torch

from ommatid.data.degrade.resize import Bicubic
from ommatid.ops.bicubic import shrink_bicubic


def test_the_small_picture_is_rounded_to_8_bits_as_a_file_would_be() -> None:
    picture = torch.rand(3, 24, 33)
    small = Bicubic(4)(picture, torch.Generator())
    torch.testing.assert_close(small * 255, (small * 255).round(), rtol=0, atol=1e-4)
    exact = shrink_bicubic(picture, 4).clamp(0, 1)
    assert 0 < (small - exact).abs().max() < 0.5001 / 255
