from __future__ import annotations

import pytest
import torch

from ommatid.data.degrade.noise import Noise
from ommatid.data.degrade.step import Range


def test_is_white_and_gaussian_of_the_sigma_named() -> None:
    noise = Noise(Range(25, 25))(torch.full((3, 200, 200), 0.5), torch.Generator().manual_seed(0)) - 0.5
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
    assert noise.std().item() * 255 == pytest.approx(25, rel=0.01)
    assert (noise.abs() < 25 / 255).float().mean().item() == pytest.approx(0.683, abs=0.005)
    assert (noise[:, :, 1:] * noise[:, :, :-1]).mean().item() * 255**2 == pytest.approx(0, abs=5)


def test_is_neither_clipped_nor_rounded() -> None:
    noisy = Noise(Range(25, 25))(torch.zeros(3, 20, 20), torch.Generator().manual_seed(0))
    assert noisy.min() < -0.1
    assert len(noisy.unique()) == noisy.numel()


def test_a_range_gives_each_picture_a_sigma_of_its_own() -> None:
    generator, flat = torch.Generator().manual_seed(0), torch.zeros(3, 40, 40)
    sigmas = torch.stack([Noise(Range(10, 50))(flat, generator).std() * 255 for _ in range(60)])
    assert 9 < sigmas.min() < 14
    assert 46 < sigmas.max() < 52
