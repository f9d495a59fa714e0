"""Momentum from layer to layer: residual mixtures of experts read as steps of gradient descent, and given a memory.

"MomentumSMoE: Integrating Momentum into Sparse Mixture of Experts" (arXiv 2410.14574). A layer x + f(x) is a step along
f; the momentum, as large as the tokens and 0 before the first layer, is carried through the depth of the network, never
from image to image. There are no further parameters. What the experts give is subtracted, not added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ommatid.nn.moe.layer import MoE

EPS = 1e-8


class Momentum(NamedTuple):
    """What is carried from layer to layer, each like the tokens: the momentum, and Adam's two running means."""

    velocity: Tensor
    mean: Tensor
    square: Tensor


def at_rest(x: Tensor) -> Momentum:
    """The state before the first layer."""
    zeros = torch.zeros_like(x)
    return Momentum(zeros, zeros, zeros)


class Step(nn.Module):
    """The plain step, x + c, which leaves the momentum alone; base of the others."""

    def ahead(self, x: Tensor, state: Momentum) -> Tensor:
        """Where the experts look."""
        return x

    def forward(self, x: Tensor, change: Tensor, state: Momentum) -> tuple[Tensor, Momentum]:
        """Tokens, what the experts gave for them, and the state -> tokens and the state behind the layer."""
        return x + change, state


class HeavyBallStep(Step):
    """m <- mu m + gamma c, x - m. Polyak's heavy ball."""

    def __init__(self, mu: float = 0.7, gamma: float = 1.0) -> None:
        super().__init__()
        self.mu = mu
        self.gamma = gamma

    def forward(self, x: Tensor, change: Tensor, state: Momentum) -> tuple[Tensor, Momentum]:
        velocity = self.mu * state.velocity + self.gamma * change
        return x - velocity, state._replace(velocity=velocity)


class AdamStep(HeavyBallStep):
    """-rate p / sqrt(v + eps), with running means p of c and v of c^2; the momentum goes on as a heavy ball's.

    For the first layer of a stack; weight decay of 1 cancels x itself, which comes back through a residual outside.
    """

    def __init__(
        self, mu: float = 0.7, gamma: float = 1.0, *, rate: float = 0.8, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        super().__init__(mu, gamma)
        self.rate = rate
        self.betas = betas

    def forward(self, x: Tensor, change: Tensor, state: Momentum) -> tuple[Tensor, Momentum]:
        _, state = super().forward(x, change, state)
        first, second = self.betas
        mean = first * state.mean + (1 - first) * change
        square = second * state.square + (1 - second) * change.square()
        step = self.rate * mean / (square + EPS).sqrt()
        return -step, state._replace(mean=mean, square=square)


class RobustStep(HeavyBallStep):
    """A heavy ball whose experts look back along the momentum, at x - alpha m.

    Robust momentum (Cyrus et al. 2018), which bears errors of the gradient better.

    Args:
        k: above 1, the condition number.
        p: in (0, 1), the rate; theory wants 1 - 1 / sqrt(k) to 1 - 1 / k.
        smoothness: L, above 0.
    """

    def __init__(self, k: float = 2.0, p: float = 0.4, smoothness: float = 1.0) -> None:
        super().__init__(mu=k * p**3 / (k - 1), gamma=k * (1 - p) ** 2 * (1 + p) / smoothness)
        self.alpha = p**3 / ((k - 1) * (1 - p) ** 2 * (1 + p))

    def ahead(self, x: Tensor, state: Momentum) -> Tensor:
        return x - self.alpha * state.velocity


class MomentumMoE(nn.Module):
    """A mixture of experts as one step: tokens (..., C) and the momentum -> the same behind it.

    Cost: that of the mixture, and 2 multiply-adds a number.

    Args:
        dim: C.
        moe: the mixture, c = f(x).
        step: what becomes of x, c and the momentum.
        pre_norm: the norm is in front of the experts, else behind the step.
    """

    def __init__(self, dim: int, moe: MoE, step: Step, *, pre_norm: bool = True) -> None:
        super().__init__()
        self.moe = moe
        self.step = step
        self.norm = nn.LayerNorm(dim)
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, state: Momentum) -> tuple[Tensor, Momentum]:
        ahead = self.step.ahead(x, state)
        change = self.moe(self.norm(ahead) if self.pre_norm else ahead)
        x, state = self.step(x, change, state)
        return (x if self.pre_norm else self.norm(x)), state


class MomentumStack(nn.Module):
    """Blocks of which some are `MomentumMoE`, one after another, with one momentum for all these: (..., C) -> (..., C).

    Blocks without experts leave the momentum alone.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        state = at_rest(x)
        for block in self.blocks:
            if isinstance(block, MomentumMoE):
                x, state = block(x, state)
            else:
                x = block(x)
        return x


def init_experts_kaiming_(weight: Tensor) -> None:
    """Stacked weights (E, O, I) as the reference draws them: uniform within 1 / sqrt(O I)."""
    reach = 1 / math.sqrt(weight.shape[1] * weight.shape[2])
    nn.init.uniform_(weight, -reach, reach)
