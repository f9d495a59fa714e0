"""The likelihood of a Laplace distribution, where the target is known."""

from __future__ import annotations

import math

import pytest
import torch

from ommatid.ops.laplacian_loss import laplacian_loss, log_scale


def test_it_is_the_error_over_the_scale_and_its_logarithm() -> None:
    prediction, target = torch.zeros(1, 2, 1, 2), torch.tensor([[[[1.0, 3.0]], [[2.0, -4.0]]]])
    scale = torch.full((1, 1, 1, 2), math.log(2))
    loss = laplacian_loss(prediction, target, scale)
    torch.testing.assert_close(loss, torch.tensor((3 + 7) / 4 + math.log(2)))
    near = laplacian_loss(prediction, target, scale, max_norm=4.0)
    torch.testing.assert_close(near, torch.tensor(3 / 2 + math.log(2)))


def test_what_is_not_known_has_no_gradient() -> None:
    target = torch.tensor([[[[1.0, torch.inf, torch.nan]]]])
    prediction, scale = torch.zeros(1, 1, 1, 3, requires_grad=True), torch.zeros(1, 1, 1, 3, requires_grad=True)
    laplacian_loss(prediction, target, scale).backward()
    assert torch.equal(prediction.grad, torch.tensor([[[[-1.0, 0, 0]]]]))
    assert torch.equal(scale.grad, torch.tensor([[[[0.0, 0, 0]]]]))
    assert laplacian_loss(prediction, torch.full_like(target, torch.inf), scale) == 0


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("bounded", 0.25, 4.0), ("bounded2", math.exp(-0.25), math.exp(0.25))]
)
def test_scales_stay_between_their_bounds(kind: str, low: float, high: float) -> None:
    scale = log_scale(torch.tensor([-100.0, 0.0, 100.0]), kind, a=0.25, b=4.0).exp()
    torch.testing.assert_close(scale[[0, 2]], torch.tensor([low, high]))
    assert torch.equal(log_scale(scale), scale)
