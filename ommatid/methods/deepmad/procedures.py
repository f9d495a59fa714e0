"""DeepMAD's score and mutations, as its reference cases ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ommatid.methods.deepmad.mutation import SPACES, Draw, Structure, mutated, repaired
from ommatid.methods.deepmad.score import score
from ommatid.models.backbones.deepmad import DeepMADConfig
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register_part


@register_part("deepmad", "metrics")
class Metrics(Procedure):
    """Every number of the structure's score; takes no inputs."""

    config: DeepMADConfig

    def forward(self) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        found = score(
            config.blocks,
            config.image_size,
            stage_weights=config.stage_weights,
            alpha_width=config.alpha_width,
            alpha_kernel=config.alpha_kernel,
            depth_penalty_ratio=config.depth_penalty_ratio,
        )
        return {name: torch.tensor(value, dtype=torch.float64).flatten() for name, value in vars(found).items()}


@register_part("deepmad", "mutation")
class Mutation(Procedure):
    """The structure behind each step, rows of (in, out, stride, kernel, depth, bottleneck); takes no inputs."""

    config: DeepMADConfig

    def forward(self) -> dict[str, Tensor]:  # type: ignore[override]
        config, blocks = self.config, self.config.blocks
        outputs = {}
        for number, (index, choices) in enumerate(config.steps):
            drawn = _given(choices)
            changed = mutated(blocks, index, SPACES[config.space], drawn, layer_budget=config.budget_layers)
            blocks = repaired(changed, config.image_size)
            outputs[f"step{number}"] = _rows(blocks)
        return outputs


def _given(choices: Sequence[Any]) -> Draw:
    """Gives these one after another, whatever the candidates are."""
    following = iter(choices)
    return lambda candidates: next(following)


def _rows(blocks: Structure) -> Tensor:
    return torch.tensor([block[1:7] for block in blocks], dtype=torch.float64)
