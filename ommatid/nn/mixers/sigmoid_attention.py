"""Sigmoid attention: every token looks at every token, with weights that do not compete."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.rotary import rotate_by_position
from ommatid.ops.sigmoid_attention import aligned_distance, sigmoid_attention_weights


class SigmoidAttention(nn.Module):
    """Multi-head self-attention with sigmoid(q k^T * scale + bias) as weights: (B, ..., C) -> (B, ..., C).

    "Theory, Analysis, and Best Practices for Sigmoid Self-Attention" (arXiv 2409.04431).
    Cost: 4 H W C^2 + 2 (H W)^2 C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        attn_bias: of every score; minus the logarithm of the number of tokens where None.
        attn_temp: the scores are multiplied by exp(attn_temp).
        bias: of the joint query, key and value projection and of the output projection.
        qk_norm: layer norm of queries and keys, per head.
        rope: rotary positions; an even number of channels a head.
        causal: tokens look at themselves and earlier ones only.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        attn_bias: float | None = None,
        attn_temp: float = 0.0,
        bias: bool = True,
        qk_norm: bool = False,
        rope: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attn_bias = attn_bias
        self.scale = (dim // heads) ** -0.5 * math.exp(attn_temp)
        self.rope = rope
        self.causal = causal
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.query_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.key_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x.flatten(1, -2))[0].view(x.shape)

    def attend(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C) -> what the layer gives, (B, N, C), and its attention weights, (B, heads, N, N)."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        query, key = self.query_norm(query), self.key_norm(key)
        if self.rope:
            query, key = rotate_by_position(query), rotate_by_position(key)
        count = tokens.shape[1]
        weights = sigmoid_attention_weights(
            query,
            key,
            bias=-math.log(count) if self.attn_bias is None else self.attn_bias,
            scale=self.scale,
            allowed=aligned_distance(count, count, tokens.device) >= 0 if self.causal else None,
        )
        mixed = (weights @ value.transpose(1, 2)).transpose(1, 2).flatten(2)
        return self.proj(mixed), weights

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
