"""LPIPS with given weights. None are at hand here: AlexNet's are drawn, which keeps what a distance is."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import alexnet

from ommatid.tasks.perceptual import Lpips


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return alexnet(weights=None).features.state_dict(prefix="features.")


def test_more_noise_is_further_away_and_nothing_is_at_zero(weights: dict[str, torch.Tensor]) -> None:
    clean = torch.rand(2, 3, 64, 64)
    noise = torch.randn_like(clean)
    distance = Lpips(weights)
    far, further = (distance((clean + sigma * noise).clamp(0, 1), clean) for sigma in (0.02, 0.2))
    assert torch.equal(distance(clean, clean), torch.zeros(2))
    assert (far > 0).all()
    assert (far < further).all()


def test_it_looks_through_the_given_weights(weights: dict[str, torch.Tensor]) -> None:
    one, other = torch.rand(2, 1, 3, 64, 64)
    blind = {name: torch.zeros_like(value) for name, value in weights.items()}
    assert Lpips(weights)(one, other) > 0
    assert Lpips(blind)(one, other) == 0


def test_other_weights_and_small_pictures_are_refused(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="AlexNet"):
        Lpips({"features.0.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="31 pixels or more"):
        Lpips(weights)(torch.rand(1, 3, 16, 64), torch.rand(1, 3, 16, 64))
