"""Aggregated attention: like an eye, sharp around each token and coarse everywhere else."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import Conv2d
from ommatid.nn.deploy import scale_output_
from ommatid.nn.grid_bias import GridPositionBias
from ommatid.nn.mixture_of_heads import MixtureOfHeads
from ommatid.ops.aggregated_attention import aggregated_attention, window_counts
from ommatid.ops.attention import attend


class AggregatedAttention(nn.Module):
    """Attention to the K x K window around each token and to the pooled map, in one softmax: (B, H, W, C) -> the same.

    TransNeXt (arXiv 2311.17132). Scores are cosines, scaled by the logarithm of the number of keys.
    Cost: 5 H W C^2 + 2 M C^2 + 2 H W C M + 3 K^2 H W C multiply-adds, with M cells in the pooled map.

    Args:
        dim: C.
        heads: number of heads; divides C.
        window_size: K, odd.
        ratio: of the sides of the map and the pooled one.
        size: rows and columns of the map that `deploy()` prepares for.
        pretrain_size: rows and columns of the map in pre-training, at least 2.
        pool_size: side of the pooled map, whatever the map's; None where `ratio` decides.
        qkv_bias: bias of the query projection and of the joint key and value projection.
        gate: weighs the heads of each token.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window_size: int,
        ratio: int,
        *,
        size: tuple[int, int],
        pretrain_size: tuple[int, int],
        pool_size: int | None = None,
        qkv_bias: bool = True,
        gate: MixtureOfHeads | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.window_size = window_size
        self.ratio = ratio
        self.pool_size = pool_size
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.length_scale = LengthScale(heads, dim // heads)
        self.key_value = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.reduce = nn.Sequential(Conv2d(dim, dim, 1), nn.GELU())
        self.pooled_norm = nn.LayerNorm(dim)
        self.window_bias = nn.Parameter(torch.zeros(heads, window_size**2))
        self.tokens = nn.Parameter(torch.zeros(heads, dim // heads, window_size**2))
        self.token_bias = nn.Parameter(torch.zeros(heads, window_size**2))
        self.position = GridPositionBias(heads, size, self.pooled_size(size), pretrain_size)
        self.gate = gate
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.window_bias, std=0.0004)
        nn.init.trunc_normal_(self.tokens, std=0.02)

    def forward(self, x: Tensor, balance: list[Tensor] | None = None) -> Tensor:
        """`balance` collects the gate's loss."""
        size = (x.shape[1], x.shape[2])
        pooled_size = self.pooled_size(size)
        query = F.normalize(self.query(x).unflatten(-1, (self.heads, -1)), dim=-1)
        keys = window_counts(size, self.window_size, x.device) + pooled_size[0] * pooled_size[1]
        pooled = F.adaptive_avg_pool2d(self.reduce(x).permute(0, 3, 1, 2), pooled_size)
        pooled_key, pooled_value = self._keys_and_values(self.pooled_norm(pooled.permute(0, 2, 3, 1)).flatten(1, 2))
        key, value = self._keys_and_values(x)
        mixed = aggregated_attention(
            self.length_scale(query, keys.to(query.dtype).log()[..., None, None]),
            key,
            value,
            pooled_key,
            pooled_value,
            window_size=self.window_size,
            window_bias=self.window_bias,
            pooled_bias=self.position(size, pooled_size),
            dynamic=torch.einsum("byxhd,hdl->byxhl", query, self.tokens) + self.token_bias,
        )
        return self.proj(weigh_heads(mixed, self.gate, x, balance).flatten(3))

    def pooled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        if self.pool_size is not None:
            return self.pool_size, self.pool_size
        return size[0] // self.ratio, size[1] // self.ratio

    def _keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(..., C) -> two of (..., heads, d), the keys of length 1."""
        key, value = self.key_value(tokens).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return F.normalize(key, dim=-1), value

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


class LengthScaledAttention(nn.Module):
    """Attention over the whole map with cosines scaled by the logarithm of its length: (B, H, W, C) -> (B, H, W, C).

    TransNeXt (arXiv 2311.17132). Cost: 4 H W C^2 + 2 (H W)^2 C multiply-adds. Arguments as in `AggregatedAttention`;
    queries, keys and values have one joint projection.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        size: tuple[int, int],
        pretrain_size: tuple[int, int],
        qkv_bias: bool = True,
        gate: MixtureOfHeads | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.length_scale = LengthScale(heads, dim // heads)
        self.position = GridPositionBias(heads, size, size, pretrain_size)
        self.gate = gate
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, balance: list[Tensor] | None = None) -> Tensor:
        """`balance` collects the gate's loss."""
        size = (x.shape[1], x.shape[2])
        query, key, value = self.qkv(x.flatten(1, 2)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        query = self.length_scale(F.normalize(query, dim=-1), math.log(size[0] * size[1]))
        bias = self.position(size, size).to(query.dtype)
        mixed = attend(query, F.normalize(key, dim=-1), value, bias=bias, scale=1.0)
        heads = mixed.view(*x.shape[:3], self.heads, -1)
        return self.proj(weigh_heads(heads, self.gate, x, balance).flatten(3))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


class LengthScale(nn.Module):
    """(query + embedding) * softplus(temperature) * log length, for queries (..., heads, d) of length 1."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        # softplus makes 1 / 0.24 of it.
        self.temperature = nn.Parameter(torch.full((heads, 1), math.log(math.exp(1 / 0.24) - 1)))
        self.query_embedding = nn.Parameter(torch.zeros(heads, head_dim))
        nn.init.trunc_normal_(self.query_embedding, std=0.02)

    def forward(self, query: Tensor, log_length: Tensor | float) -> Tensor:
        return (query + self.query_embedding) * (F.softplus(self.temperature) * log_length)


def weigh_heads(mixed: Tensor, gate: MixtureOfHeads | None, x: Tensor, balance: list[Tensor] | None) -> Tensor:
    """Heads (B, H, W, heads, d) times their weights, which the gate finds from the map x (B, H, W, C)."""
    return mixed if gate is None else mixed * gate(x, balance).unsqueeze(-1)
