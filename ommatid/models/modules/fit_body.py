"""What all forms of FIT share: their config, and everything between embedding and answer.

"FIT: Far-reaching Interleaved Transformers" (arXiv 2305.12689).
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.nn.block import Block
from ommatid.nn.feedforward import MLP
from ommatid.nn.interleaved import Reading, Segment
from ommatid.nn.mixers import Attention
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import Residual
from ommatid.nn.sine_position import spread_waves, spread_waves_2d

LAYERS = re.compile(r"(?:\(\d+\)\d+)*\(\d+\)\d*")


@dataclass(frozen=True, kw_only=True)
class FITConfig(PartConfig):
    """`layers` are segments "(a)b": a local layers, then b global ones; only the last may have none of these.

    `tokens` are those of all groups. "encoder" reads `in_channels`, `causal` (latents see their own group and those
    before it) and `extra_channels` (of tokens in front of each group, 0 for none); "autoregressive" reads `vocabulary`,
    `shared_embedding` and `output_bias`; "denoiser" reads `in_channels` and the fields from `out_channels` on, but
    `token_attention` (local layers have attention), `cross_mlp` (an MLP behind every reading) and `cross_norm` (what is
    read is normed) are heeded by all.
    """

    variant: Literal["encoder", "autoregressive", "denoiser"] = "encoder"
    layers: str = "(4)4(4)4"
    tokens: int = 256
    groups: int = 4
    latents_per_group: int = 32
    dim: int = 256
    latent_dim: int = 512
    heads: int = 4
    latent_heads: int = 8
    mlp_ratio: float = 4.0
    token_position: Literal["learned", "sin_cos", "sin_cos2d"] = "learned"
    latent_position: Literal["learned", "sin_cos"] = "learned"
    in_channels: int = 768
    causal: bool = False
    extra_channels: int | None = None
    vocabulary: int = 256
    shared_embedding: bool = True
    output_bias: bool = True
    out_channels: int = 768
    condition_channels: int = 256
    self_condition: bool = False
    token_attention: bool = True
    cross_mlp: bool = False
    cross_norm: bool = True

    def check(self) -> None:
        require_positive(tokens=self.tokens, groups=self.groups, latents_per_group=self.latents_per_group)
        require_positive(dim=self.dim, latent_dim=self.latent_dim, mlp_ratio=self.mlp_ratio)
        require_positive(in_channels=self.in_channels, vocabulary=self.vocabulary)
        require_positive(out_channels=self.out_channels, condition_channels=self.condition_channels)
        require((self.extra_channels or 0) >= 0, "extra_channels", self.extra_channels, "0 (no such tokens) or more")
        require_divisible(self.dim, self.heads)
        require_divisible(self.latent_dim, self.latent_heads, "latent_heads")
        require(self.tokens % self.groups == 0, "tokens", self.tokens, f"a multiple of groups ({self.groups})")
        readable = LAYERS.fullmatch(self.layers) is not None
        require(readable, "layers", self.layers, 'segments such as "(4)4(4)4" or "(2)4(2)"')
        exchanges = all(across for _, across in self.segments[:-1])
        require(exchanges, "layers", self.layers, "a number above 0 behind every segment but the last")
        coded = self.variant != "denoiser" or (self.latent_dim % 4 == 0 and self.latent_dim > 4)
        require(coded, "latent_dim", self.latent_dim, "a multiple of 4 from 8 on, for the code of times")
        self._check_positions()

    def _check_positions(self) -> None:
        size, side = self.group_size, math.isqrt(self.group_size)
        several = self.token_position == "learned" or size > 1
        require(several, "token_position", self.token_position, "'learned' where a group has a single token")
        square = self.token_position != "sin_cos2d" or (side**2 == size and self.dim % 2 == 0)
        allowed = f"another where dim ({self.dim}) is odd or the tokens of a group ({size}) are no square"
        require(square, "token_position", self.token_position, allowed)
        several = self.latent_position == "learned" or self.groups * self.latents_per_group > 1
        require(several, "latent_position", self.latent_position, "'learned' where there is a single latent")
        line = min(self.groups, self.latents_per_group) == 1
        even = self.latent_position == "learned" or line or self.latent_dim % 2 == 0
        require(even, "latent_position", self.latent_position, f"'learned' where latent_dim ({self.latent_dim}) is odd")

    @property
    def part(self) -> str:
        """What the config stands for."""
        return self.variant

    @property
    def segments(self) -> list[tuple[int, int]]:
        """Of each segment, how many local and how many global layers."""
        return [(int(a), int(b or 0)) for a, b in re.findall(r"\((\d+)\)(\d*)", self.layers)]

    @property
    def group_size(self) -> int:
        """n."""
        return self.tokens // self.groups


class Table(nn.Module):
    """A vector for every position, learned or fixed: () -> (N, C)."""

    def __init__(self, length: int, dim: int, fixed: Tensor | None = None) -> None:
        super().__init__()
        self.table: Tensor
        if fixed is None:
            self.table = nn.Parameter(torch.empty(length, dim))
            nn.init.trunc_normal_(self.table, std=0.02)
        else:
            self.register_buffer("table", fixed, persistent=False)

    def forward(self) -> Tensor:
        return self.table


def token_table(config: FITConfig) -> Table:
    size, dim = config.group_size, config.dim
    if config.token_position == "learned":
        return Table(size, dim)
    side = math.isqrt(size)
    flat = config.token_position == "sin_cos"
    return Table(size, dim, spread_waves(size, dim) if flat else spread_waves_2d(side, side, dim))


def latent_table(config: FITConfig) -> Table:
    groups, size, dim = config.groups, config.latents_per_group, config.latent_dim
    if config.latent_position == "learned":
        return Table(groups * size, dim)
    line = min(groups, size) == 1
    return Table(groups * size, dim, spread_waves(groups * size, dim) if line else spread_waves_2d(groups, size, dim))


class FITBody(nn.Module):
    """Everything between embedding and answer: (B, t, n, D) -> the same, normed, and latents (B, t, m, E).

    Args:
        config: of any variant.
        token_mask, latent_mask: what local and global layers may look at; all where None.
        context: whether latents also read tokens that come with the input, of width E.
        delivered: which latents each group reads; its own where None.
    """

    def __init__(
        self,
        config: FITConfig,
        *,
        token_mask: nn.Module | None = None,
        latent_mask: nn.Module | None = None,
        context: bool = False,
        delivered: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.groups = config.groups
        self.position, self.latents = token_table(config), latent_table(config)
        dim, latent_dim, ratio = config.dim, config.latent_dim, config.mlp_ratio

        def reading(reader: int, source: int, heads: int, mlp_ratio: float | None) -> Reading:
            return Reading(reader, source, heads, mlp_ratio=mlp_ratio, norm_read=config.cross_norm)

        heads, cross_ratio = min(config.heads, config.latent_heads), ratio if config.cross_mlp else None
        segments, last = [], len(config.segments) - 1
        for index, (local, across) in enumerate(config.segments):
            segment = Segment(
                stack(local, dim, config.heads, ratio, token_mask, attention=config.token_attention),
                read=reading(latent_dim, dim, heads, cross_ratio) if across else None,
                context=reading(latent_dim, latent_dim, config.latent_heads, None) if across and context else None,
                across=stack(across, latent_dim, config.latent_heads, ratio, latent_mask) if across else None,
                write=reading(dim, latent_dim, heads, cross_ratio) if index < last else None,
                delivered=delivered,
            )
            segments.append(segment)
        self.segments = nn.ModuleList(segments)
        self.norm = LayerNorm(dim)

    def forward(
        self, x: Tensor, *, front: Tensor | None = None, remembered: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The tokens, with those of `front` (B, t, k, D) before them, and the latents, to which `remembered` is added.

        `context` (B, s, E) is what latents read beside.
        """
        x = x + self.position()
        if front is not None:
            x = torch.cat([front, x], 2)
        latents = self.latents().unflatten(0, (self.groups, -1)).expand(x.shape[0], -1, -1, -1)
        if remembered is not None:
            latents = latents + remembered
        for segment in self.segments:
            x, latents = segment(x, latents, context)
        return self.norm(x), latents


def stack(
    depth: int, dim: int, heads: int, mlp_ratio: float, mask: nn.Module | None, *, attention: bool = True
) -> nn.Sequential:
    """Transformer layers on (B, N, C), or without attention only their MLPs."""

    def mlp() -> MLP:
        return MLP(dim, int(mlp_ratio * dim))

    if not attention:
        branches = (Residual(dim, mlp(), norm=LayerNorm) for _ in range(depth))
        return nn.Sequential(*(nn.Sequential(OrderedDict[str, nn.Module](channel=branch)) for branch in branches))
    blocks = (Block(dim, Attention(dim, heads, bias=mask), mlp(), norm=LayerNorm) for _ in range(depth))
    return nn.Sequential(*blocks)


def init_xavier_uniform_(layer: nn.Module) -> None:
    """Linear layers: Xavier-uniform weights, biases 0."""
    if isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
