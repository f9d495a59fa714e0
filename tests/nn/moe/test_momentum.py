"""Momentum between layers of experts."""

from __future__ import annotations

import torch
from torch import nn

from ommatid.nn.moe import HeavyBallStep, MomentumMoE, MomentumStack, RobustStep, mixture_of_mlps
from ommatid.nn.moe.momentum import Step, at_rest

DIM = 8


def both(one: Step, other: Step) -> list[torch.Tensor]:
    """What two layers with the same experts and different steps make of the same tokens and a momentum."""
    torch.manual_seed(0)
    moe, x = mixture_of_mlps(DIM, 6, experts=3), torch.randn(5, DIM)
    state = at_rest(x)._replace(velocity=torch.randn(5, DIM))
    layers = [MomentumMoE(DIM, moe, step) for step in (one, other)]
    return [layer(x, state)[0] for layer in layers]


def test_without_friction_a_heavy_ball_is_plain_descent() -> None:
    torch.testing.assert_close(*both(HeavyBallStep(0.0, -1.0), Step()))


def test_robust_momentum_ends_in_a_heavy_ball() -> None:
    torch.testing.assert_close(*both(RobustStep(2.0, 0.0, 4.0), HeavyBallStep(0.0, 0.5)))
    step = RobustStep(2.0, 0.4, 1.0)
    step.alpha = 0.0
    torch.testing.assert_close(*both(step, HeavyBallStep(step.mu, step.gamma)))


def test_blocks_between_leave_the_momentum_alone() -> None:
    torch.manual_seed(0)
    layers = [MomentumMoE(DIM, mixture_of_mlps(DIM, 6, experts=3), HeavyBallStep()) for _ in range(2)]
    x = torch.randn(2, 5, DIM)
    with_nothing_between = MomentumStack([layers[0], nn.Identity(), layers[1]])
    torch.testing.assert_close(with_nothing_between(x), MomentumStack(layers)(x))
    assert not torch.allclose(MomentumStack(layers)(x), layers[1](layers[0](x, at_rest(x))[0], at_rest(x))[0])
