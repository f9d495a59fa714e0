"""Gated linear attention in both directions: two states that forget at rates of each token's own read the whole map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.nn.deploy import scale_output_
from ommatid.nn.norm import RMSNorm
from ommatid.ops.gated_linear_attention import gated_linear_attention

DECAY_RANK = 16
DECAY_TEMPERATURE = 16


class GatedLinearAttention(nn.Module):
    """Gated linear attention both ways after a depthwise convolution, and a gate between the two.

    (B, H, W, C) -> (B, H, W, C).

    ViG (arXiv 2405.18425). The tokens are read row by row, forwards and backwards with decays of their own.
    Cost for N = H W and key width K = expand_k C: N (2 C^2 + C (2 K + C) + 16 (C + 2 K) + 9 C) multiply-adds for the
    projections, and about 4 N K C / heads for the two recurrences.

    Args:
        dim: C.
        heads: number of heads; divides C and K.
        expand_k: width of queries and keys, as a share of C.
        conv_act: SiLU after the convolution.
        output_act: SiLU before the output projection.
        halve_twice: in evaluation mode the two directions count a quarter each and not a half; a norm follows, so only
            its epsilon shows it. So does the published code of the plain model.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        expand_k: float = 0.5,
        conv_act: bool = False,
        output_act: bool = False,
        halve_twice: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.key_dim = int(expand_k * dim)
        self.scale = (self.key_dim // heads) ** -0.5  # also of a layer that has lost heads since
        self.halve_twice = halve_twice
        self.conv = depthwise_conv(dim, 3, bias=False)
        self.conv_act = nn.SiLU() if conv_act else nn.Identity()
        self.qkv = nn.Linear(dim, 2 * self.key_dim + dim, bias=False)
        self.decay = nn.Sequential(nn.Linear(dim, DECAY_RANK, bias=False), nn.Linear(DECAY_RANK, 2 * self.key_dim))
        self.gate = nn.Linear(dim, dim)
        self.global_norm = RMSNorm(dim // heads, eps=1e-6)
        self.local_norm = RMSNorm(dim // heads, eps=1e-6)
        self.output_act = nn.SiLU() if output_act else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small Xavier-uniform weights, as GLA starts with; biases 0."""
        for layer in (self.conv, self.qkv, *self.decay, self.gate, self.proj):
            nn.init.xavier_uniform_(layer.weight, gain=2**-2.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        local = self.conv_act(self.conv(x)).flatten(1, 2)
        gate = self._heads(self.gate(local).sigmoid())
        mixed = self.global_norm(self.read_both_ways(local)) * gate + self.local_norm(self._heads(local)) * (1 - gate)
        return self.proj(self.output_act(mixed.flatten(2))).view(x.shape)

    def read_both_ways(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, heads, C / heads)."""
        query, key, value = self.qkv(tokens).split([self.key_dim, self.key_dim, self.proj.in_features], dim=-1)
        forwards, backwards = (F.logsigmoid(self.decay(tokens)) / DECAY_TEMPERATURE).chunk(2, dim=-1)
        # Both directions are one batch: the backward one is the sequence in reverse.
        twice = (torch.cat([x, x.flip(1)]) for x in (query * self.scale, key, value))
        decays = torch.cat([forwards, backwards.flip(1)])
        ahead, back = gated_linear_attention(*map(self._heads, (*twice, decays))).chunk(2)
        return (ahead + back.flip(1)) * (0.25 if self.halve_twice and not self.training else 0.5)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
