"""MuE: image, text and decoder each stop at the layer where their states change little.

"You Need Multiple Exiting: Dynamic Early Exiting for Accelerating Unified Vision Language Model" (arXiv 2211.11152).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.methods.early_exit.task_loss import layer_wise_loss
from ommatid.methods.early_exit.transformer import Cache, DecoderLayer, EncoderLayer, decode_step, until_saturated
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.ops.saturation import decayed_thresholds, similarity


@dataclass(frozen=True, kw_only=True)
class MuEConfig(PartConfig):
    """ "encoder" reads `image_threshold` and `text_threshold`, "decoder" and "thresholds" `threshold` and `max_length`;
    "similarity" `threshold` and `cumulative`; "task_loss" what follows."""

    function: Literal["encoder", "decoder", "similarity", "thresholds", "task_loss"] = "encoder"
    dim: int = 768
    heads: int = 12
    depth: int = 6
    mlp_ratio: float = 4.0
    vocabulary: int = 1000
    image_threshold: float = 1.0
    text_threshold: float = 1.0
    threshold: float = 1.0
    max_length: int = 16
    cumulative: bool = False
    label_smoothing: float = 0.0
    pad: int = 1
    drop_worst_ratio: float = 0.0

    def check(self) -> None:
        require_positive(depth=self.depth, vocabulary=self.vocabulary)
        require_divisible(self.dim, self.heads)
        require(0 <= self.drop_worst_ratio < 1, "drop_worst_ratio", self.drop_worst_ratio, "from 0 to below 1")
        require(self.max_length >= 0, "max_length", self.max_length, "0 or more")

    @property
    def hidden(self) -> int:
        return int(self.dim * self.mlp_ratio)


@register("mue_early_exit", MuEConfig)
class Encoder(Procedure):
    """image (B, N, C) and text (B, M, C), each through the same layers by itself -> out (B, N + M, C)."""

    config: MuEConfig

    def __init__(self, config: MuEConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(EncoderLayer(config.dim, config.heads, config.hidden) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        image, image_exit = until_saturated(self.layers, image, self.config.image_threshold)
        text, text_exit = until_saturated(self.layers, text, self.config.text_threshold)
        out = self.norm(torch.cat([image, text], dim=1))
        return {"out": out, "exit_layers": torch.tensor([float(image_exit), float(text_exit)])}


@register_part("mue_early_exit", "decoder")
class Decoder(Procedure):
    """memory (B, M, C) and tokens (B, S), given one a step -> logits (B, S, V) and the layer of each step's exit."""

    config: MuEConfig

    def __init__(self, config: MuEConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocabulary, config.dim)
        self.layers = nn.ModuleList(DecoderLayer(config.dim, config.heads, config.hidden) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        self.output = nn.Linear(config.dim, config.vocabulary, bias=False)

    def forward(self, memory: Tensor, tokens: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        longest = tokens.shape[1] <= config.max_length + 1
        require(longest, "tokens", tokens.shape[1], f"at most max_length + 1 ({config.max_length + 1})")
        thresholds = decayed_thresholds(config.max_length, config.threshold)
        caches, states, exits = [Cache() for _ in self.layers], [], []
        for step, embedded in enumerate(self.embed(tokens).split(1, dim=1)):
            state, number = decode_step(self.layers, embedded, memory, caches, thresholds[step])
            states.append(state)
            exits.append(float(number))
        logits = self.output(self.norm(torch.cat(states, dim=1)))
        return {"logits": logits, "exit_layers": torch.tensor(exits)}


@register_part("mue_early_exit", "similarity")
class Similarity(Procedure):
    """states (L + 1, T, B, C), or what is added to them -> the similarity of each to the one before, and the exit."""

    config: MuEConfig

    def forward(self, states: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        states = states.cumsum(0) if self.config.cumulative else states
        found = torch.stack([similarity(before, after) for before, after in pairwise(states)])
        passed = (found > self.config.threshold).nonzero()
        number = int(passed[0]) + 1 if len(passed) and self.config.threshold < 1 else len(found)
        return {"similarity": found, "exit_layer": torch.tensor([float(number)])}


@register_part("mue_early_exit", "thresholds")
class Thresholds(Procedure):
    """Takes no inputs; gives the threshold of each step (max_length + 1)."""

    config: MuEConfig

    def forward(self) -> dict[str, Tensor]:  # type: ignore[override]
        return {"thresholds": torch.tensor(decayed_thresholds(self.config.max_length, self.config.threshold))}


@register_part("mue_early_exit", "task_loss")
class LayerWiseLoss(Procedure):
    """layer_logits (L, B, T, V) and target (B, T) -> loss, nll and tokens."""

    config: MuEConfig

    def forward(self, layer_logits: Tensor, target: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        found = layer_wise_loss(
            layer_logits,
            target,
            label_smoothing=config.label_smoothing,
            pad=config.pad,
            drop_worst_ratio=config.drop_worst_ratio,
        )
        return {"loss": found.loss[None], "nll": found.nll[None], "tokens": torch.tensor([float(found.tokens)])}


VARIANTS = {"ofa_base_mue": MuEConfig(depth=6, image_threshold=0.7, text_threshold=0.99, threshold=0.7)}

REFERENCE_NAMES = [(r"\.(fc[12])\.", r".mlp.\1.")]
