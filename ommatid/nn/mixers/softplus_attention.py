"""Softplus attention: sums to 1 without an exponential, then only keys above the average stay."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.rotary import rotate_halves
from ommatid.ops.softplus_attention import sharpened, softplus_attention_weights, visible_keys


class SoftplusAttention(nn.Module):
    """Multi-head self-attention with normed softplus(c q k^T), re-weighted, as weights: (B, ..., C) -> (B, ..., C).

    LSSA and, re-weighted, LSSAR (arXiv 2501.13428). Cost: 4 H W C^2 + 2 (H W)^2 C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        power: that weights above the offset are raised to; None for no re-weighting.
        offset: in units of the average weight; weights below it become 0.
        length_scale: scores grow with the logarithm of the number of keys.
        causal: tokens look at themselves and earlier ones only.
        rope: rotary positions; an even number of channels a head.
        bias: of the joint query, key and value projection and of the output projection.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        power: int | None = 3,
        offset: float = 1.0,
        length_scale: bool = True,
        causal: bool = False,
        rope: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = dim // heads  # also of heads that have lost channels since
        self.power, self.offset = power, offset
        self.length_scale = length_scale
        self.causal = causal
        self.rope = rope
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x.flatten(1, -2))[0].view(x.shape)

    def attend(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C) -> what the layer gives, (B, N, C), and its attention weights, (B, heads, N, N)."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if self.rope:
            query, key = rotate_halves(query), rotate_halves(key)
        weights = softplus_attention_weights(
            query, key, causal=self.causal, length_scale=self.length_scale, width=self.head_dim
        )
        if self.power is not None:
            visible = visible_keys(query, key, causal=self.causal)
            weights = sharpened(weights, visible, power=self.power, offset=self.offset)
        mixed = weights.to(value.dtype) @ value.transpose(1, 2)
        return self.proj(mixed.transpose(1, 2).flatten(2)), weights

    def input_layers(self) -> tuple[nn.Module, ...]:
        """What alone reads the input, so that a constant scale and shift of it can be folded in."""
        return (self.qkv,)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
