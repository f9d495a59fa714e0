"""A plain encoder and a plain decoder that leave out the layers behind a saturated one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ommatid.nn.feedforward import MLP
from ommatid.ops.attention import attend
from ommatid.ops.saturation import saturated


class CachedAttention(nn.Module):
    """Attention with a layer for each of query, key and value: (B, N, C) to (B, M, C) -> (B, N, C)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def keys_and_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, C) -> (B, M, heads, d) each."""
        return self.k(source).unflatten(-1, (self.heads, -1)), self.v(source).unflatten(-1, (self.heads, -1))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return self.proj(attend(self.q(x).unflatten(-1, (self.heads, -1)), keys, values))


class EncoderLayer(nn.Module):
    """x + self-attention(norm(x)), then x + MLP(norm(x)): (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.self_attn = CachedAttention(dim, heads)
        self.mlp = MLP(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.self_attn(normed, *self.self_attn.keys_and_values(normed))
        return x + self.mlp(self.norm3(x))


def until_saturated(layers: Iterable[nn.Module], x: Tensor, threshold: float) -> tuple[Tensor, int]:
    """The output of the first layer that changed little, or of the last one; and its number, from 1."""
    ran = 0
    for layer in layers:
        before, x, ran = x, layer(x), ran + 1
        if saturated(before, x, threshold):
            break
    return x, ran


@dataclass
class Cache:
    """Keys and values (B, M, heads, d) that one layer has: of its own tokens so far, and of the memory."""

    own: tuple[Tensor, Tensor] | None = None
    memory: tuple[Tensor, Tensor] | None = None


class DecoderLayer(nn.Module):
    """Self-attention to the tokens so far, attention to a memory, MLP; each on a norm and added: (B, 1, C) -> same."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.self_attn = CachedAttention(dim, heads)
        self.cross_attn = CachedAttention(dim, heads)
        self.mlp = MLP(dim, hidden)

    def forward(self, x: Tensor, memory: Tensor, cache: Cache) -> Tensor:
        """One step; `cache` is brought up to it."""
        normed = self.norm1(x)
        new = self.self_attn.keys_and_values(normed)
        if cache.own is not None:
            new = (torch.cat([cache.own[0], new[0]], dim=1), torch.cat([cache.own[1], new[1]], dim=1))
        cache.own = new
        x = x + self.self_attn(normed, *new)
        if cache.memory is None:
            cache.memory = self.cross_attn.keys_and_values(memory)
        x = x + self.cross_attn(self.norm2(x), *cache.memory)
        return x + self.mlp(self.norm3(x))


def decode_step(
    layers: Iterable[nn.Module], x: Tensor, memory: Tensor, caches: list[Cache], threshold: float
) -> tuple[Tensor, int]:
    """One step through a decoder, up to the first layer that changes little.

    The layers behind it get copies of its keys and values, in place of what they had.

    Args:
        layers: `DecoderLayer`s. x: (B, 1, C), the step's token. memory: (B, M, C), of the encoder.
        caches: one for each layer.

    Returns:
        The output of the last layer that ran, and its number, from 1.
    """
    number = 0
    for number, layer in enumerate(layers, start=1):
        before, x = x, layer(x, memory, caches[number - 1])
        if saturated(before, x, threshold):
            break
    last = caches[number - 1]
    for skipped in caches[number:]:
        skipped.own, skipped.memory = last.own, last.memory
    return x, number
