"""The published procedure of `nvit_saliency` and `nvit_schedule`, as its reference cases name it (2110.04869)."""

from __future__ import annotations

import torch
from torch import Tensor

from ommatid.methods.pruning.latency_table import LatencyTable
from ommatid.methods.pruning.nvit_saliency import KINDS, nvit_saliency
from ommatid.methods.pruning.nvit_schedule import NViTSchedule
from ommatid.models.backbones.nvit import NViTConfig
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register_part


def redistributed(dim: int) -> Tensor:
    """Rows heads, QK dims and V dims per head, MLP units, for the 12 blocks of a transformer of width `dim`: (4, 12).

    What NViT's pruning tends to, as a rule for new models (ReViT).
    """
    few, several = 2 * round(0.005 * dim), 4 * round(0.005 * dim)
    step = round(0.05 * dim / 8)
    middle = 6
    heads = [10, few, few, *[several] * middle, few, few, 10]
    qk = [16 * step, 8 * step, 8 * step, *[16 * step] * middle, 8 * step, 8 * step, 16 * step]
    mlp = [3 * dim] * 3 + [6 * dim] * middle + [3 * dim] * 3
    return torch.tensor([heads, qk, [64] * 12, mlp])


@register_part("nvit", "saliency")
class Saliency(Procedure):
    """`w.NAME` and `g.NAME` of one batch -> the saliency of each unit; parameters not given count nothing."""

    config: NViTConfig

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        weights, grads = (
            {name[2:]: value for name, value in inputs.items() if name.startswith(letter)} for letter in ("w.", "g.")
        )
        return nvit_saliency(weights, grads, self.config.depth)


@register_part("nvit", "schedule")
class Schedule(Procedure):
    """Roots of the saliencies of each iteration, and a latency table -> the gates and the latency after each."""

    config: NViTConfig

    def forward(self, latency: Tensor, **roots: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        schedule = NViTSchedule(
            LatencyTable(config.axes, self._times(latency)),
            config.latency_regularization,
            config.momentum,
            config.prune_per_iteration,
            config.count_unit,
            config.prune_max,
        )
        gates, times = [], []
        for index in range(len(roots["emb"])):
            saliencies = {kind: roots[kind][index].square().reshape(-1, roots[kind].shape[-1]) for kind in KINDS}
            times.append(schedule.step(saliencies))
            gates.append({kind: schedule.gates[kind].clone() for kind in KINDS})
        stacked = {kind: torch.stack([row[kind] for row in gates]) for kind in KINDS}
        stacked["emb"] = stacked["emb"].flatten(1)
        return {f"gate_{kind}": value for kind, value in stacked.items()} | {"latency": torch.tensor(times)}

    def _times(self, latency: Tensor) -> Tensor:
        """The cases' table: the sum of relative sizes, made uneven by their input."""
        axes = [torch.tensor(axis, dtype=torch.float64) for axis in self.config.axes]
        relative = torch.meshgrid(*(axis / axis[-1] for axis in axes), indexing="ij")
        return (0.5 + 0.25 * latency.double()) * torch.stack(relative).sum(0)


@register_part("nvit", "redistribution")
class Redistribution(Procedure):
    """() -> table (widths, 4, 12)."""

    config: NViTConfig

    def forward(self) -> dict[str, Tensor]:  # type: ignore[override]
        return {"table": torch.stack([redistributed(dim) for dim in self.config.dims])}
