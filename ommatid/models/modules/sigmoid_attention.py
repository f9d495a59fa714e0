"""Sigmoid self-attention, as an operator on queries, keys and values and as a layer.

"Theory, Analysis, and Best Practices for Sigmoid Self-Attention" (arXiv 2409.04431).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.registry import register, register_part
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import SigmoidAttention
from ommatid.ops.sigmoid_attention import (
    alibi_bias,
    aligned_distance,
    repeat_heads,
    sigmoid_attention_weights,
    window_mask,
)


@dataclass(frozen=True, kw_only=True)
class SigmoidAttentionConfig(PartConfig):
    """`part` "core" reads `attn_bias`, `causal`, `window` and `alibi_slopes`; "layer" reads all but the last two.

    An `attn_bias` of None stands for minus the logarithm of the number of keys, or of `tokens` in the layer.
    """

    part: Literal["core", "layer"] = "layer"
    attn_bias: float | None = None
    causal: bool = False
    window: tuple[int, int] | None = None
    alibi_slopes: tuple[float, ...] | None = None
    dim: int = 384
    heads: int = 6
    tokens: int = 196
    attn_temp: float | None = None
    bias: bool = True
    qk_norm: bool = False
    rope: bool = False

    def check(self) -> None:
        require_divisible(self.dim, self.heads)
        require_positive(tokens=self.tokens)
        reach_is_positive = self.window is None or min(self.window) >= 0
        require(reach_is_positive, "window", self.window, "null, or two numbers of keys, left and right")
        pairs_up = not self.rope or self.dim // self.heads % 2 == 0
        require(pairs_up, "rope", self.rope, f"true for an even number of channels a head ({self.dim // self.heads})")


@register("sigmoid_attention", SigmoidAttentionConfig)
class SigmoidAttentionLayer(Model):
    """tokens (B, N, C) -> features (B, N, C) and attention (B, heads, N, N)."""

    def __init__(self, config: SigmoidAttentionConfig) -> None:
        super().__init__(config)
        self.mixer = SigmoidAttention(
            config.dim,
            config.heads,
            attn_bias=-math.log(config.tokens) if config.attn_bias is None else config.attn_bias,
            attn_temp=config.attn_temp or 0.0,
            bias=config.bias,
            qk_norm=config.qk_norm,
            rope=config.rope,
            causal=config.causal,
        )
        self.apply(init_linear_)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        features, weights = self.mixer.attend(tokens)
        return {"features": features, "attention": weights}


@register_part("sigmoid_attention", "core")
class SigmoidAttentionCore(Model):
    """q (B, N, heads, d), k and v (B, M, key heads, d) -> output (B, N, heads, d) and attention (B, heads, N, M)."""

    config: SigmoidAttentionConfig

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
        config, keys = self.config, k.shape[1]
        distance = aligned_distance(q.shape[1], keys, q.device)
        weights = sigmoid_attention_weights(
            q,
            k,
            bias=-math.log(keys) if config.attn_bias is None else config.attn_bias,
            allowed=window_mask(distance, causal=config.causal, window=config.window),
            alibi=None if config.alibi_slopes is None else alibi_bias(distance, config.alibi_slopes),
        )
        output = weights @ repeat_heads(v, q.shape[2]).transpose(1, 2)
        return {"output": output.transpose(1, 2), "attention": weights}


REFERENCE_NAMES = [
    (r"^q_norm\.", "query_norm."),
    (r"^k_norm\.", "key_norm."),
    (r"^", "mixer."),
]
