"""The published procedure of `allocation`, `zeroth_order` and `local`, as its reference cases name it (2310.02998)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.methods.pruning.allocation import allocate_sparsity
from ommatid.methods.pruning.local import InputStatistics, sparsegpt, wanda_mask, wanda_metric
from ommatid.methods.pruning.zeroth_order import METHODS, Calibration, Steps, importances
from ommatid.models.config import PartConfig
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.feedforward import MLP

NOISE_SCALE = 1.7
"""Of the cases' noise, which is uniform."""


@dataclass(frozen=True, kw_only=True)
class EcoflapConfig(PartConfig):
    """`allocation` reads the sparsities, `power` and `num_parameters`; `local` the last two; `scores` the others."""

    function: Literal["scores", "allocation", "local"] = "scores"
    dim: int = 8
    hidden: tuple[int, ...] = (12, 16, 10)
    num_classes: int = 5
    num_noise: int = 1
    noise_eps: float = 1e-3
    num_samples: int = 128
    sparsity: float = 0.5
    max_sparsity: float = 0.6
    power: float = 1.0
    num_parameters: tuple[int, ...] = ()
    sparsities: tuple[float, ...] = ()
    block_size: int = 128


@register("ecoflap", EcoflapConfig)
class Scores(Procedure):
    """x (batches, B, dim), labels, noise `z.NAME` -> importance and sparsity of every weight of a residual MLP."""

    config: EcoflapConfig

    def __init__(self, config: EcoflapConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(MLP(config.dim, hidden) for hidden in config.hidden)
        self.head = nn.Linear(config.dim, config.num_classes)

    def forward(self, x: Tensor, labels: Tensor, **noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        # The difference of two close losses needs it.
        model = _Float64(self)
        weights = {
            f"blocks.{index}.{leaf}.weight": model.state[f"blocks.{index}.{leaf}.weight"]
            for index in range(len(self.blocks))
            for leaf in ("fc1", "fc2")
        }
        batches, sizes = list(zip(x.double(), labels, strict=True)), [x.shape[1]] * len(x)
        calibration = Calibration(model.loss, batches, sizes, self.config.num_samples)
        steps = Steps(
            lambda name, draw: NOISE_SCALE * noise[f"z.{name}"][draw].double(),
            self.config.num_noise,
            self.config.noise_eps,
        )
        answers: dict[str, Tensor] = {}
        for method in METHODS:
            found = importances(method, weights, calibration, steps)
            answers |= self._judged(method, torch.stack([value.sum() for value in found.values()]), weights)
        return answers

    def _judged(self, method: str, scores: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        parameters = torch.tensor([weight.numel() for weight in weights.values()]).view(-1, 2).sum(1)
        of_blocks = scores.view(-1, 2).sum(1)
        answers = {}
        for suffix, group_scores in (("sum", of_blocks), ("avg", of_blocks / parameters)):
            sparsity, _, _ = allocate_sparsity(group_scores, parameters, self.config.sparsity, self.config.max_sparsity)
            answers[f"score.{method}_{suffix}"] = scores.detach()
            answers[f"sparsity.{method}_{suffix}"] = sparsity.repeat_interleave(2)
        return answers


class _Float64:
    """The residual MLP in double precision, as a loss of its weights."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.state = {name: value.detach().double().requires_grad_() for name, value in scores.named_parameters()}

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, labels = batch
        for index in range(len(self.scores.blocks)):
            x = x + self._linear(f"blocks.{index}.fc2", F.gelu(self._linear(f"blocks.{index}.fc1", x)))
        return F.cross_entropy(self._linear("head", x), labels)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])


@register_part("ecoflap", "allocation")
class Allocation(Procedure):
    """scores (R, groups) -> for each row the sparsity of every group, and the weights [kept, to keep]."""

    config: EcoflapConfig

    def forward(self, scores: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        answers: dict[str, Tensor] = {}
        for row, values in enumerate(((scores + 1) / 2) ** config.power):
            parameters = torch.tensor(config.num_parameters)
            sparsity, kept, wanted = allocate_sparsity(values, parameters, config.sparsity, config.max_sparsity)
            answers |= {f"sparsity{row}": sparsity, f"total{row}": torch.tensor([kept, wanted])}
        return answers


@register_part("ecoflap", "local")
class Local(Procedure):
    """x (batches, B, tokens, in) -> what is gathered of the inputs, and the weight pruned by Wanda and SparseGPT."""

    config: EcoflapConfig

    def __init__(self, config: EcoflapConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.zeros(1, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        statistics = InputStatistics(x.shape[-1])
        for batch in x:
            statistics.update(batch)
        metric = wanda_metric(self.weight, statistics.norm_sq)
        answers = {"input_norm_sq": statistics.norm_sq, "metric": metric, "hessian": statistics.hessian}
        for sparsity in self.config.sparsities:
            answers[f"wanda_{sparsity}"] = self.weight * wanda_mask(metric, sparsity)
            answers[f"sparsegpt_{sparsity}"] = sparsegpt(
                self.weight, statistics.hessian, sparsity, block_size=self.config.block_size
            )
        return answers


def convert_reference(state: dict[str, Tensor], model: Procedure) -> dict[str, Tensor]:
    """The layer that is pruned takes the shape of the case's weight, which no config names."""
    if isinstance(model, Local) and "weight" in state:
        model.weight = nn.Parameter(torch.empty_like(state["weight"]))
    return state
