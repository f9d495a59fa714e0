"""Pointer networks, told what to point at and left to themselves.

"Pointer Networks" (arXiv 1506.03134).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ommatid.models.config import PartConfig, require_positive
from ommatid.models.model import Model
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.pointer_network import PointerNetwork, chosen_log_probability


@dataclass(frozen=True, kw_only=True)
class PointerNetworksConfig(PartConfig):
    """`steps` is read by the part "decode" only; None stands for the number of elements."""

    part: Literal["train", "decode"] = "train"
    in_dim: int = 2
    dim: int = 256
    mask_used: bool = False
    steps: int | None = None

    def check(self) -> None:
        require_positive(in_dim=self.in_dim, dim=self.dim, steps=1 if self.steps is None else self.steps)

    def network(self) -> PointerNetwork:
        return PointerNetwork(self.in_dim, self.dim, masked=self.mask_used)


@register("pointer_networks", PointerNetworksConfig)
class ToldPointers(Model):
    """elements (B, N, in_dim) and targets (B, T) integers -> probabilities (B, T, N), and the targets' logarithms."""

    def __init__(self, config: PointerNetworksConfig) -> None:
        super().__init__(config)
        self.network = config.network()

    def forward(self, elements: Tensor, targets: Tensor) -> dict[str, Tensor]:
        answer = self.network(elements, targets)
        return {"probabilities": answer.exp(), "log_probability": chosen_log_probability(answer, targets)}


@register_part("pointer_networks", "decode")
class GreedyPointers(Procedure):
    """elements (B, N, in_dim) -> pointers (B, steps), probabilities (B, steps, N), and the pointers' logarithms."""

    config: PointerNetworksConfig

    def __init__(self, config: PointerNetworksConfig) -> None:
        super().__init__(config)
        self.network = config.network()

    def forward(self, elements: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        pointers, answer = self.network.decode(elements, self.config.steps)
        return {
            "pointers": pointers,
            "probabilities": answer.exp(),
            "log_probability": chosen_log_probability(answer, pointers),
        }


REFERENCE_NAMES = [
    (r"^attention\.W1\.", "attention.element."),
    (r"^attention\.W2\.", "attention.state."),
    (r"^attention\.v\.", "attention.score."),
    (r"^", "network."),
]


def reference_outputs(model: ToldPointers, elements: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """With the loss, the negative log-likelihood of all targets."""
    outputs = model(elements, targets)
    return outputs | {"loss": -outputs["log_probability"].mean()}
