"""ECO-M2F: how many encoder layers an image needs is decided by a gate before the first of them.

"Efficient Transformer Encoders for Mask2Former-style Models" (arXiv 2404.15244). The recipe: train a parent that can
stop at any layer (`exit_loss_weight`), see how well each image fares at each exit, and teach the gate which exit is
worth it (`exit_targets`, `gate_loss`). Another budget needs another `beta` and a new gate only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.decoders.deformable_pixels import DeformableEncoderLayer
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.sine_position import sine_position
from ommatid.ops.deformable_attention import cell_centres


def exit_loss_weight(exit_layer: int) -> float:
    """What the losses of the parent are multiplied by in a step in which it stops behind that layer."""
    return float(exit_layer)


def exit_utility(quality: Tensor, beta: float) -> Tensor:
    """How well an image fares at each exit, (I, n), less `beta` for each exit that it passes: (I, n)."""
    return quality - beta * torch.arange(1, quality.shape[1] + 1, device=quality.device)


def exit_targets(quality: Tensor, beta: float, *, first_exit: int = 2) -> Tensor:
    """(I, n) -> (I,): the number of layers worth running, the smaller where two are alike."""
    return exit_utility(quality, beta).argmax(-1) + first_exit


def gate_loss(gates: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of the gates (B, n) against the number of the exit (B,), from 0: ()."""
    return F.cross_entropy(gates, target)


def soft_gate_loss(gates: Tensor, quality: Tensor, beta: float) -> Tensor:
    """What the published code computes: squared differences of softmaxes over the batch, (B, n) each, averaged: ().

    It compares images, not exits, and is 0 for one image: `gate_loss` is the one to train with.
    """
    return F.mse_loss(gates.softmax(0), exit_utility(quality, beta).softmax(0))


@dataclass(frozen=True, kw_only=True)
class EcoM2FConfig(PartConfig):
    """`exit_layer` 0 lets the gate decide. The functions "targets", "hard_loss" and "soft_loss" read `beta` and
    `first_exit` only."""

    function: Literal["encoder", "targets", "hard_loss", "soft_loss"] = "encoder"
    dim: int = 256
    heads: int = 8
    depth: int = 6
    ffn_dim: int = 1024
    levels: int = 3
    points: int = 4
    first_exit: int = 2
    exit_layer: int = 0
    beta: float = 0.0005

    def check(self) -> None:
        require_positive(depth=self.depth, ffn_dim=self.ffn_dim, levels=self.levels, points=self.points)
        require_divisible(self.dim, self.heads)
        require(1 <= self.first_exit <= self.depth, "first_exit", self.first_exit, f"from 1 to {self.depth}")
        known = self.exit_layer == 0 or 1 <= self.exit_layer <= self.depth
        require(known, "exit_layer", self.exit_layer, f"from 1 to {self.depth}, or 0 for the gate's choice")


@register("eco_m2f", EcoM2FConfig)
class GatedEncoder(Procedure):
    """level0 (B, C, h, w), the coarsest, level1, ... -> tokens (B, N, C), gates (B, n) and exit_layer (B).

    Every image stops at its own exit.
    """

    config: EcoM2FConfig

    def __init__(self, config: EcoM2FConfig) -> None:
        super().__init__(config)
        self.level = nn.Parameter(torch.randn(config.levels, config.dim))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(config.dim, config.heads, config.levels, config.ffn_dim, points=config.points)
            for _ in range(config.depth)
        )
        self.gate = nn.Linear(config.dim, config.depth - config.first_exit + 1)

    def forward(self, **levels: Tensor) -> dict[str, Tensor]:
        config = self.config
        maps = [levels[f"level{i}"] for i in range(config.levels)]
        sizes = [(level.shape[2], level.shape[3]) for level in maps]
        x = torch.cat([level.flatten(2).mT for level in maps], dim=1)
        waves = [sine_position(*size, config.dim, x.device).flatten(0, 1) for size in sizes]
        position = torch.cat([wave + level for wave, level in zip(waves, self.level, strict=True)])
        reference = cell_centres(sizes, x.device)[None]
        gates = self.gate(maps[0].mean((2, 3)))
        exits = gates.argmax(-1) + config.first_exit
        exits = torch.full_like(exits, config.exit_layer) if config.exit_layer else exits
        answer = x
        for number, layer in enumerate(self.layers[: int(exits.max())], start=1):
            x = layer(x, position, reference, sizes)
            answer = torch.where((exits >= number)[:, None, None], x, answer)
        return {"tokens": answer, "gates": gates, "exit_layer": exits.float()}


@register_part("eco_m2f", "targets")
class Targets(Procedure):
    """quality (I, n), of which the mean with 1 is taken -> utility (I, n), exit_layer (I) and soft_target (I, n)."""

    config: EcoM2FConfig

    def forward(self, quality: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        quality, beta = (quality + 1) / 2, self.config.beta
        utility = exit_utility(quality, beta)
        exits = exit_targets(quality, beta, first_exit=self.config.first_exit)
        return {"utility": utility, "exit_layer": exits.float(), "soft_target": utility.softmax(0)}


@register_part("eco_m2f", "hard_loss")
class HardLoss(Procedure):
    """gates (B, n) and target (B) -> loss."""

    def forward(self, gates: Tensor, target: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss": gate_loss(gates, target)[None]}


@register_part("eco_m2f", "soft_loss")
class SoftLoss(Procedure):
    """gates (B, n) and quality (B, n), of which the mean with 1 is taken -> loss."""

    config: EcoM2FConfig

    def forward(self, gates: Tensor, quality: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss": soft_gate_loss(gates, (quality + 1) / 2, self.config.beta)[None]}


VARIANTS = {
    "eco_m2f_coco_0.0005": EcoM2FConfig(beta=0.0005),
    "eco_m2f_coco_0.02": EcoM2FConfig(beta=0.02),
    "eco_m2f_cityscapes_0.003": EcoM2FConfig(beta=0.003),
    "eco_m2f_cityscapes_0.01": EcoM2FConfig(beta=0.01),
}

REFERENCE_NAMES = [
    (r"^level_embed$", "level"),
    (r"^encoder\.gt\.head\.", "gate."),
    (r"^encoder\.", ""),
    (r"\.self_attn\.sampling_offsets\.", ".attention.offsets."),
    (r"\.self_attn\.attention_weights\.", ".attention.weights."),
    (r"\.self_attn\.value_proj\.", ".attention.value."),
    (r"\.self_attn\.output_proj\.", ".attention.proj."),
    (r"\.norm1\.", ".norm."),
    (r"\.norm2\.", ".mlp.norm."),
    (r"\.linear(\d)\.", r".mlp.inner.fc\1."),
]
