from __future__ import annotations

import pytest
import torch

from ommatid.data.degrade.step import Range
from ommatid.data.degrade.weather import AIRLIGHT, Haze, Rain


def test_rain_only_brightens_and_more_of_it_more() -> None:
    picture = (torch.rand(3, 80, 80) * 100).round() / 255
    shares = []
    for strength in (0.1, 0.5, 1):
        wet = Rain(Range(strength, strength))(picture, torch.Generator().manual_seed(0))
        assert (wet >= picture - 1e-6).all()
        assert wet.max() <= 1
        shares.append((wet > picture + 0.02).float().mean().item())
    assert 0.005 < shares[0] < shares[1] < shares[2] < 0.5


def test_streaks_are_the_same_grey_in_each_colour_and_near_upright() -> None:
    wet = Rain(Range(0.1, 0.1))(torch.zeros(3, 120, 120), torch.Generator().manual_seed(0))
    assert torch.equal(wet[0], wet[2])
    across, along = ((wet[0].diff(dim=axis) ** 2).sum() for axis in (1, 0))
    assert across > 3 * along


def test_no_rain_and_no_haze_change_nothing() -> None:
    picture = (torch.rand(3, 20, 20) * 255).round() / 255
    for step in (Rain(Range(0, 0)), Haze(Range(0, 0))):
        torch.testing.assert_close(step(picture, torch.Generator()), picture)


def test_haze_leaves_as_much_of_the_contrast_as_it_says() -> None:
    dark, bright = torch.zeros(3, 40, 40), torch.ones(3, 40, 40)
    haze = Haze(Range(0.6, 0.6))
    fog, light = (haze(picture, torch.Generator().manual_seed(3)) for picture in (dark, bright))
    transmission = light - fog
    assert transmission.min() >= 0.4**1.5 - 0.005
    assert transmission.max() <= 0.4**0.5 + 0.005
    assert transmission.mean().item() == pytest.approx(0.4, abs=0.1)
    airlight = fog / (1 - transmission)
    assert airlight.std() < 0.01
    assert AIRLIGHT.low - 0.01 <= airlight.mean() <= AIRLIGHT.high + 0.01
