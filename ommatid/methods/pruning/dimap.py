"""DIMAP: weights ranked by their share of their layer's energy, inside modules of layers of one function.

"Data-independent Module-aware Pruning for Hierarchical Vision Transformers" (arXiv 2404.13648). No images are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ommatid.models.config import PartConfig, require
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register

MODULES = {"qkv": (".qkv",), "proj": (".proj",), "mlp": (".fc1", ".fc2")}
"""Which layers of a transformer are of one function, by the ends of their names."""


def energy_share(weight: Tensor) -> Tensor:
    """Of every weight, its square over the sum of all squares of the layer that are at least as large: float64.

    In (0, 1], 1 for the largest; the order is that of magnitudes, and a factor on the layer changes nothing.
    """
    energy = weight.detach().double().flatten().square()
    ordered, places = energy.sort(descending=True)
    share = ordered / ordered.cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.empty_like(share).scatter_(0, places, share).view(weight.shape)


def module_masks(importances: Sequence[Tensor], ratio: float) -> tuple[Tensor, list[Tensor]]:
    """Prunes round(ratio * weights) of one module's layers together: the threshold (), and booleans to keep."""
    require(0 <= ratio <= 1, "ratio", ratio, "from 0 to 1")
    together = torch.cat([importance.flatten() for importance in importances])
    count = round(ratio * together.numel())
    if count == 0:
        return together.new_zeros(()), [torch.ones_like(importance, dtype=torch.bool) for importance in importances]
    threshold = together.kthvalue(count).values
    return threshold, [importance > threshold for importance in importances]


def module_of(name: str, modules: Mapping[str, Sequence[str]] = MODULES) -> str | None:
    """The module that a layer's name belongs to; None for what is never pruned."""
    return next((module for module, ends in modules.items() if f".{name}".endswith(tuple(ends))), None)


def dimap_masks(
    weights: Mapping[str, Tensor], ratios: Mapping[str, float], *, single_module: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Masks of layers by name, from their weights alone.

    Args:
        weights: by layer name; which module a layer is in follows from its name (`MODULES`).
        ratios: share of weights to prune of each module; of "all" with `single_module`.

    Returns:
        Booleans to keep, importances, and the threshold of each module. Layers of no module have none.
    """
    modules: dict[str, list[str]] = {}
    for name in weights:
        module = module_of(name)
        if module is not None:
            modules.setdefault("all" if single_module else module, []).append(name)
    importances = {name: energy_share(weights[name]) for names in modules.values() for name in names}
    thresholds: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for module, names in modules.items():
        require(module in ratios, "ratios", dict(ratios), f"a ratio for {module}")
        thresholds[module], kept = module_masks([importances[name] for name in names], ratios[module])
        masks |= dict(zip(names, kept, strict=True))
    return masks, importances, thresholds


@dataclass(frozen=True, kw_only=True)
class DimapConfig(PartConfig):
    """Of Swin's layers, given as inputs; `dims`, `depths` and `mlp_ratio` only say which those are."""

    function: Literal["prune"] = "prune"
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    mlp_ratio: float = 4.0
    single_module: bool = False
    ratios: dict = field(default_factory=lambda: {"qkv": 0.5, "proj": 0.5, "mlp": 0.5})


@register("dimap", DimapConfig)
class Dimap(Procedure):
    """Numbers by layer name -> importances, masks, thresholds by module, and the share of each layer that is kept.

    The weights are the inputs, squared with their sign, and every other layer scaled by 0.2.
    """

    config: DimapConfig

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        weights = {
            name: value * value.abs() * (0.2 if index % 2 else 1.0)
            for index, (name, value) in enumerate(inputs.items())
        }
        masks, importances, thresholds = dimap_masks(
            weights, self.config.ratios, single_module=self.config.single_module
        )
        return (
            {f"importance.{name}": importances[name] for name in weights}
            | {f"mask.{name}": masks[name].float() for name in weights}
            | {f"threshold.{module}": value for module, value in thresholds.items()}
            | {"kept_ratio": torch.stack([masks[name].float().mean() for name in weights])}
        )
