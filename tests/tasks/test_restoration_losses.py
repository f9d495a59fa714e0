from __future__ import annotations

import math

import pytest
import torch

from ommatid.tasks.restoration_losses import LOSSES, charbonnier, frequency, l1


@pytest.mark.parametrize("name", LOSSES)
def test_least_for_equal_pictures_and_finite_gradients_there(name: str) -> None:
    clean = torch.rand(2, 3, 9, 12)
    restored = clean.clone().requires_grad_()
    at_best = LOSSES[name](restored, clean)
    at_best.backward()
    assert at_best.item() <= 1.001e-3
    assert restored.grad is not None
    assert restored.grad.isfinite().all()
    assert LOSSES[name](clean + 0.1, clean) > at_best + 0.05


def test_l1_and_charbonnier_of_known_differences() -> None:
    clean, restored = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.3, -0.1]]]])
    assert l1(restored, clean).item() == pytest.approx(0.2)
    expected = (math.hypot(0.3, 1e-3) + math.hypot(0.1, 1e-3)) / 2
    assert charbonnier(restored, clean).item() == pytest.approx(expected)


def test_frequency_is_the_l1_of_pixels_and_of_coefficients() -> None:
    difference = torch.rand(2, 3, 8, 10) - 0.5
    coefficients = torch.fft.fft2(difference)[..., :6] / math.sqrt(80)
    expected = difference.abs().mean() + (coefficients.real.abs().mean() + coefficients.imag.abs().mean()) / 2
    torch.testing.assert_close(frequency(difference, torch.zeros_like(difference)), expected)


def test_frequency_weighs_an_error_alike_in_every_size() -> None:
    torch.manual_seed(0)
    small, large = (frequency(torch.randn(4, 3, side, side), torch.zeros(4, 3, side, side)) for side in (32, 128))
    assert small.item() == pytest.approx(large.item(), rel=0.02)


def test_half_precision_is_summed_in_full() -> None:
    restored, clean = torch.rand(1, 3, 8, 8).bfloat16(), torch.rand(1, 3, 8, 8)
    assert all(loss(restored, clean).dtype == torch.float32 for loss in LOSSES.values())
