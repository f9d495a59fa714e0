"""Training towards N:M sparsity without the noise of hard masks: mask decay, structure decay, SR-STE.

"Progressive Gradient Flow for Robust N:M Sparsity Training in Transformers" (arXiv 2402.04744); SR-STE is of
"Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch" (arXiv 2102.04010).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ommatid.methods.pruning.patterns import nm_mask
from ommatid.models.config import require

Pattern = tuple[int, int]
"""N of M."""

SR_STE_DECAY = 2e-4

Decay = Literal["step", "linear", "exp"]
StructureDecay = Literal["none", "sparsify", "densify", "fine"]


def decay_factor(decay: Decay, coefficient: float, step: int) -> float:
    """What the pruned weights are multiplied by at a step: 1 at first, 0 in the end; 0 all along for "step"."""
    if decay == "linear":
        return max(1 - coefficient * step, 0.0)
    return math.exp(-coefficient * step) if decay == "exp" else 0.0


def structure_schedule(
    kind: StructureDecay, target: Pattern, *, dense_epochs: int, fine_tune_epochs: int, total_epochs: int
) -> dict[int, Pattern]:
    """Epoch at which a stage begins -> its pattern, loose to tight. Empty for "none".

    "sparsify" (the paper's SdGf-Stepwise) halves N, "fine" (SdGf-Geometric) halves N and M, "densify" halves M.
    """
    n, m = target
    if kind == "none":
        return {}
    if kind == "sparsify":
        stages = int(math.log2(m / n)) + 1
        patterns = [(m - 1 if stage == 0 else int(m / 2**stage), m) for stage in range(stages)]
    else:
        factors = [2 ** (3 - stage) for stage in range(4)]
        patterns = [(n * factor if kind == "fine" else n, m * factor) for factor in factors]
    span = total_epochs - dense_epochs - fine_tune_epochs
    return {dense_epochs + int(i * span / len(patterns)): pattern for i, pattern in enumerate(patterns)}


@dataclass
class NMSchedule:
    """Which pattern, and how hard, at an epoch and a step. Epochs are to be visited in order: what was met stays.

    target: N of M in the end. decay, coefficient: of the pruned weights' factor per step. sr_ste: hard masks of the
    target from the start, whose pruned weights decay (SR-STE). structure: epoch -> pattern. dense_epochs come first,
    fine_tune_epochs last, with hard masks.
    """

    target: Pattern
    total_epochs: int
    decay: Decay = "step"
    coefficient: float = 0.0
    sr_ste: bool = False
    structure: Mapping[int, Pattern] = field(default_factory=dict)
    dense_epochs: int = 0
    fine_tune_epochs: int = 0

    def __post_init__(self) -> None:
        n, m = self.target
        require(0 < n <= m, "pattern", list(self.target), "N of M with 0 < N <= M")
        self.pattern = self.target
        self._decay: Decay = self.decay

    def at(self, epoch: int, step: int) -> tuple[Pattern, float] | None:
        """The pattern and the factor of what it prunes; None while training is dense."""
        if epoch < self.dense_epochs or step < 0:
            return None
        if self.sr_ste:
            return self.target, 0.0
        self.pattern = self.structure.get(epoch, self.pattern)
        if epoch > self.total_epochs - self.fine_tune_epochs:
            self._decay = "step"
        return self.pattern, decay_factor(self._decay, self.coefficient, step)


class NMWeight(nn.Module):
    """A weight as the layer sees it: the same shape, what its pattern prunes multiplied by a factor.

    The mask follows the magnitudes at every call. The gradient goes straight through, undamped, to all weights; with
    SR-STE, those that are pruned also decay. A parametrisation for `torch.nn.utils.parametrize`.
    """

    def __init__(self, schedule: NMSchedule, *, dim: int = 0) -> None:
        super().__init__()
        self.schedule = schedule
        self.dim = dim
        self.now: tuple[Pattern, float] | None = None

    def at(self, epoch: int, step: int) -> None:
        """Moves to an epoch and a step of the training."""
        self.now = self.schedule.at(epoch, step)

    def forward(self, weight: Tensor) -> Tensor:
        if self.now is None:
            return weight
        (n, m), factor = self.now
        mask = nm_mask(weight, n, m, dim=self.dim)
        decay = SR_STE_DECAY if self.schedule.sr_ste else 0.0
        masked: Tensor = _StraightThrough.apply(weight, mask, factor, decay)
        return masked


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, factor: float, decay: float) -> Tensor:
        ctx.decay = decay
        ctx.save_for_backward(weight, mask)
        return (mask + (1 - mask) * factor) * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, mask = ctx.saved_tensors
        return (grads[0] + ctx.decay * (1 - mask) * weight if ctx.decay else grads[0]), None, None, None


def sparsify(layers: Iterable[nn.Module], make_schedule: Any, *, dim: int = 0) -> list[NMWeight]:
    """Lets every layer's weight follow a schedule of its own; `at(epoch, step)` of each result moves it on.

    make_schedule: () -> NMSchedule. `densify` ends it.
    """
    weights = []
    for layer in layers:
        weights.append(NMWeight(make_schedule(), dim=dim))
        parametrize.register_parametrization(layer, "weight", weights[-1])
    return weights


def densify(layers: Iterable[nn.Module]) -> None:
    """Makes the weights that the layers see, zeros and all, plain parameters again."""
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight")
