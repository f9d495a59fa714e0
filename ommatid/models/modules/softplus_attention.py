"""Softplus attention with re-weighting, as an operator on queries, keys and values and as a layer.

"Softplus Attention with Re-weighting Boosts Length Extrapolation in Large Language Models" (arXiv 2501.13428).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.registry import register, register_part
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import SoftplusAttention
from ommatid.ops.softplus_attention import sharpened, softplus_attention_weights, visible_keys


@dataclass(frozen=True, kw_only=True)
class SoftplusAttentionConfig(PartConfig):
    """`part` "core" does not read `dim`, `heads`, `rope` and `bias`. A `power` of None leaves out the re-weighting."""

    part: Literal["core", "layer"] = "layer"
    causal: bool = True
    length_scale: bool = True
    power: int | None = 3
    offset: float = 1.0
    dim: int = 768
    heads: int = 12
    rope: bool = True
    bias: bool = True

    def check(self) -> None:
        require(self.power is None or self.power > 0, "power", self.power, "null or a positive integer")
        if self.part == "layer":
            require_positive(dim=self.dim)
            require_divisible(self.dim, self.heads)
            width = self.dim // self.heads
            require(not self.rope or width % 2 == 0, "rope", True, f"true for an even width of a head ({width})")


@register("softplus_attention", SoftplusAttentionConfig)
class SoftplusAttentionLayer(Model):
    """tokens (B, N, C) -> features (B, N, C) and attention (B, heads, N, N)."""

    def __init__(self, config: SoftplusAttentionConfig) -> None:
        super().__init__(config)
        self.mixer = SoftplusAttention(
            config.dim,
            config.heads,
            power=config.power,
            offset=config.offset,
            length_scale=config.length_scale,
            causal=config.causal,
            rope=config.rope,
            bias=config.bias,
        )
        self.apply(init_linear_)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        features, weights = self.mixer.attend(tokens)
        return {"features": features, "attention": weights}


@register_part("softplus_attention", "core")
class SoftplusAttentionCore(Model):
    """q, k, v (B, heads, N, d) -> output, and the weights normalised and attention (B, heads, N, N)."""

    config: SoftplusAttentionConfig

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
        config, query, key = self.config, q.transpose(1, 2), k.transpose(1, 2)
        normalised = softplus_attention_weights(query, key, causal=config.causal, length_scale=config.length_scale)
        attention = normalised
        if config.power is not None:
            visible = visible_keys(query, key, causal=config.causal)
            attention = sharpened(normalised, visible, power=config.power, offset=config.offset)
        return {"output": attention.to(v.dtype) @ v, "normalised": normalised, "attention": attention}


REFERENCE_NAMES = [(r"^", "mixer.")]
