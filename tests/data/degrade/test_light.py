from __future__ import annotations

import pytest
import torch

from ommatid.data.degrade.light import LowLight
from ommatid.data.degrade.step import Range


def test_is_the_share_of_the_light_that_it_says() -> None:
    dark = LowLight(Range(0.25, 0.25))(torch.full((3, 4, 4), 200 / 255), torch.Generator())
    assert ((dark[0, 0, 0].item() * 255 / 200) ** 2.2) == pytest.approx(0.25, abs=0.01)


def test_tones_are_lost_for_good() -> None:
    ramp = (torch.arange(256) / 255).expand(3, 1, 256)
    dark = LowLight(Range(0.05, 0.05))(ramp, torch.Generator())
    assert len(dark.unique()) == round(255 * 0.05 ** (1 / 2.2)) + 1
