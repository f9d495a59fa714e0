"""Interleaved stacks: tokens in groups, latents that read from their group, and latents that talk across groups.

From "FIT: Far-reaching Interleaved Transformers" (arXiv 2305.12689). Tokens are (B, t, n, D), n in each of t groups,
latents (B, t, m, E).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ommatid.nn.cross_attention import CrossAttention
from ommatid.nn.feedforward import MLP
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import Residual


class Reading(nn.Module):
    """Tokens that read others: x + attention(norm(x), norm(read)), (B, Q, C) and (B, N, D) -> (B, Q, C).

    Args:
        dim: C.
        read_dim: D.
        heads: of the attention, whose width is the smaller of C and D, less what does not split into heads.
        mlp_ratio: of an MLP behind it, in a residual branch; None for none.
        norm_read: whether what is read is normed.
    """

    def __init__(
        self, dim: int, read_dim: int, heads: int, *, mlp_ratio: float | None = None, norm_read: bool = True
    ) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.norm_read = LayerNorm(read_dim) if norm_read else nn.Identity()
        self.attn = CrossAttention(dim, heads, key_dim=read_dim, inner=min(dim, read_dim) // heads * heads)
        self.channel = Residual(dim, MLP(dim, int(mlp_ratio * dim)), norm=LayerNorm) if mlp_ratio else nn.Identity()

    def forward(self, x: Tensor, read: Tensor) -> Tensor:
        read = self.norm_read(read)
        return self.channel(x + self.attn(self.norm(x), read, read))


class Segment(nn.Module):
    """Local layers inside groups, then, where there are global layers, an exchange between groups by their latents.

    Args:
        local: on the tokens of a group.
        read: latents of a group from its tokens.
        context: latents of all groups from tokens that come with the input.
        across: on the latents of all groups; None for a segment that leaves latents alone.
        write: tokens of a group from its latents; None where the result stays with the latents.
        delivered: which latents each group reads, (B, t, m, E) -> (B, t, m, E); its own where None.
    """

    def __init__(
        self,
        local: nn.Sequential,
        *,
        read: Reading | None = None,
        context: Reading | None = None,
        across: nn.Sequential | None = None,
        write: Reading | None = None,
        delivered: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.local, self.read, self.context, self.across, self.write = local, read, context, across, write
        self.delivered = delivered

    def forward(self, x: Tensor, latents: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = in_groups(self.local, x)
        if self.read is None or self.across is None:
            return x, latents
        together = in_groups(self.read, latents, x).flatten(1, 2)
        if self.context is not None:
            together = self.context(together, context)
        latents = self.across(together).unflatten(1, latents.shape[1:3])
        if self.write is not None:
            x = in_groups(self.write, x, self.delivered(latents) if self.delivered else latents)
        return x, latents


def in_groups(layer: nn.Module, *tokens: Tensor) -> Tensor:
    """A layer on the tokens (B, t, ., .) of every group by itself."""
    return layer(*(part.flatten(0, 1) for part in tokens)).unflatten(0, tokens[0].shape[:2])


def of_group_before(latents: Tensor) -> Tensor:
    """(B, t, m, E): the latents of the group before each; zeros for the first."""
    return torch.cat([torch.zeros_like(latents[:, :1]), latents[:, :-1]], 1)


class Allowed(nn.Module):
    """What an attention may look at, () -> (N, N) bool: True where the row's token may see the column's.

    Args:
        groups: tokens see their own group and those before it.
        size: tokens of a group.
    """

    def __init__(self, groups: int, size: int) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", causal_mask(groups, size), persistent=False)

    def forward(self) -> Tensor:
        return self.mask


def causal_mask(groups: int, size: int) -> Tensor:
    """(groups * size, groups * size) bool: True where the column's group is the row's or before it."""
    group = torch.arange(groups).repeat_interleave(size)
    return group[:, None] >= group
