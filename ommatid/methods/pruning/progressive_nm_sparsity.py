"""The published procedure of `progressive`, as its reference cases name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.methods.pruning.patterns import nm_mask, unstructured_mask
from ommatid.methods.pruning.progressive import (
    Decay,
    NMSchedule,
    NMWeight,
    StructureDecay,
    decay_factor,
    structure_schedule,
)
from ommatid.models.config import PartConfig
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part


@dataclass(frozen=True, kw_only=True)
class ProgressiveNMConfig(PartConfig):
    """`masks` reads `patterns` and `rates`; `schedules` the coefficients and `steps`; `training` the others."""

    function: Literal["masks", "training", "schedules"] = "training"
    patterns: tuple[tuple[int, int], ...] = ((2, 4),)
    rates: tuple[float, ...] = ()
    sparsity_type: Literal["structured_nm", "srste"] = "structured_nm"
    pattern: tuple[int, int] = (2, 4)
    decay_type: Decay = "step"
    decay_coef: float = 0.0
    structure_decay: StructureDecay = "none"
    dense_epochs: int = 0
    fine_tune_epochs: int = 0
    total_epochs: int = 10
    sparse_dim: Literal[0, 1] = 0
    epochs: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    linear_coef: float = 0.0
    exp_coef: float = 0.0

    def structure(self, kind: StructureDecay) -> dict[int, tuple[int, int]]:
        return structure_schedule(
            kind,
            self.pattern,
            dense_epochs=self.dense_epochs,
            fine_tune_epochs=self.fine_tune_epochs,
            total_epochs=self.total_epochs,
        )


@register("progressive_nm_sparsity", ProgressiveNMConfig)
class SparseTraining(Procedure):
    """x (B, in), grad (B, out), fed at every (epoch, step) -> outputs, gradients and effective weights, stacked.

    The reference's linear layer owns a bias that it never adds.
    """

    config: ProgressiveNMConfig

    def __init__(self, config: ProgressiveNMConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.zeros(1, config.pattern[1]))

    def forward(self, x: Tensor, grad: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        sparse, config = NMWeight(self._schedule(), dim=self.config.sparse_dim), self.config
        answers: list[tuple[Tensor, ...]] = []
        for epoch, step in zip(config.epochs, config.steps, strict=True):
            sparse.at(epoch, step)
            effective = sparse(self.weight)
            y = F.linear(x, effective)
            answers.append((y, *torch.autograd.grad(y, self.weight, grad, retain_graph=True), effective))
        names = ("y", "grad_weight", "effective_weight")
        return {name: torch.stack(rows) for name, rows in zip(names, zip(*answers, strict=True), strict=True)}

    def _schedule(self) -> NMSchedule:
        config = self.config
        return NMSchedule(
            target=config.pattern,
            total_epochs=config.total_epochs,
            decay=config.decay_type,
            coefficient=config.decay_coef,
            sr_ste=config.sparsity_type == "srste",
            structure=config.structure(config.structure_decay),
            dense_epochs=config.dense_epochs,
            fine_tune_epochs=config.fine_tune_epochs,
        )


@register_part("progressive_nm_sparsity", "masks")
class Masks(Procedure):
    """The masks of a matrix and of a convolution's weight, by pattern and by rate."""

    config: ProgressiveNMConfig

    def forward(self, weight: Tensor, conv: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        masks = {f"unstructured_{rate}": unstructured_mask(weight, rate) for rate in self.config.rates}
        for n, m in self.config.patterns:
            masks |= {f"linear_{n}_{m}_dim{dim}": nm_mask(weight, n, m, dim=dim) for dim in (0, 1)}
            masks[f"conv_{n}_{m}"] = nm_mask(conv, n, m)
        return masks


@register_part("progressive_nm_sparsity", "schedules")
class Schedules(Procedure):
    """Rows of (epoch, N, M) of every structure schedule, and the decay factors at the steps."""

    config: ProgressiveNMConfig

    def forward(self) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        kinds: tuple[StructureDecay, ...] = ("sparsify", "densify", "fine")
        stages = {
            kind: torch.tensor([[epoch, *pattern] for epoch, pattern in config.structure(kind).items()])
            for kind in kinds
        }
        decays: dict[Decay, float] = {"linear": config.linear_coef, "exp": config.exp_coef}
        return stages | {
            kind: torch.tensor([decay_factor(kind, coefficient, step) for step in config.steps])
            for kind, coefficient in decays.items()
        }


def convert_reference(state: dict[str, Tensor], model: Procedure) -> dict[str, Tensor]:
    """The layer on trial takes the shape of the case's weight, which no config names."""
    if isinstance(model, SparseTraining) and "weight" in state:
        model.weight = nn.Parameter(torch.empty_like(state["weight"]))
    return state
