"""COMET: a gate of trees whose leaves are experts, and the permutation that places experts on leaves.

"COMET: Learning Cardinality Constrained Mixture of Experts with Trees and Local Search" (arXiv 2306.02824).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.model import Model
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.moe.tree import TreeRouter, annealed, permutation_entropy, soft_permutation
from ommatid.ops.sinkhorn import nearest_permutation, sinkhorn

ITERATIONS = 20
"""Of the Sinkhorn normalisation of a gate's permutation."""


@dataclass(frozen=True, kw_only=True)
class COMETConfig(PartConfig):
    """`function` "permutation" reads `log_scale`, and `iteration` of `total_iterations`; "gate" the others."""

    function: Literal["gate", "permutation"] = "gate"
    dim: int = 64
    num_experts: int = 16
    num_trees: int = 2
    gamma: float = 1.0
    entropy_reg: float = 1.0
    permutation: Literal["identity", "soft", "hard"] = "identity"
    perm_scale: float = 1.0
    iteration: int = 1
    total_iterations: int = 100
    log_scale: float = 1.0

    def check(self) -> None:
        require_positive(dim=self.dim, num_experts=self.num_experts, num_trees=self.num_trees, gamma=self.gamma)
        require_positive(total_iterations=self.total_iterations)
        require(self.iteration >= 0, "iteration", self.iteration, "0 or more")


@register("comet", COMETConfig)
class COMETGate(Procedure):
    """x (B, D) and what the experts answer, (B, F, E) -> features (B, F), weights (B, E), leaf_prob (B, trees, E).

    `entropy_loss` is that of all examples together. perm_logits (1, E, E) lead to the order of experts on leaves, where
    the config has one.
    """

    config: COMETConfig

    def __init__(self, config: COMETConfig) -> None:
        super().__init__(config)
        self.router = TreeRouter(
            config.dim,
            config.num_experts,
            trees=config.num_trees,
            gamma=config.gamma,
            entropy_weight=config.entropy_reg,
        )

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        order = self.order(inputs["perm_logits"]) if "perm_logits" in inputs else None
        weights, leaves = self.router.weigh(inputs["x"], order)
        return {
            "features": torch.einsum("bfe,be->bf", inputs["experts"], weights),
            "weights": weights,
            "leaf_prob": leaves,
            "entropy_loss": self.router.entropy(leaves).view(1),
        }

    def order(self, perm_logits: Tensor) -> Tensor | None:
        if self.config.permutation == "identity":
            return None
        soft = sinkhorn(self.config.perm_scale * perm_logits, ITERATIONS)
        return soft if self.config.permutation == "soft" else nearest_permutation(soft)


@register_part("comet", "permutation")
class COMETPermutation(Procedure):
    """log_weights (n, E, E) -> the soft permutation of a step of training, the hard one, and what they come from."""

    config: COMETConfig

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        config = self.config
        step = (config.iteration, config.total_iterations)
        soft = soft_permutation(config.log_scale * inputs["log_weights"], *step)
        temperature, iterations = annealed(*step)
        return {
            "soft": soft,
            "hard": nearest_permutation(soft),
            "entropy_loss": permutation_entropy(soft).view(1),
            "tau": torch.tensor([temperature]),
            "sinkhorn_iterations": torch.tensor([float(iterations)]),
        }


def convert_reference(state: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """Nodes are stored one by one, by their numbers."""
    if isinstance(model, COMETPermutation):
        return state
    nodes = range(2 * model.config.num_experts - 1) if isinstance(model, COMETGate) else ()
    return {
        f"router.nodes.{leaf}": torch.cat([state[f"node{node}.{leaf}"] for node in nodes])
        for leaf in ("weight", "bias")
    }
