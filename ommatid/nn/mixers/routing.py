"""Routing attention: tokens attend to those that are with the same centroid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.centroids import Centroids
from ommatid.nn.deploy import scale_output_
from ommatid.ops.clustered_attention import clustered_attention, local_attention
from ommatid.ops.online_kmeans import balanced_members, centroid_scores, commitment_loss
from ommatid.ops.precision import precise
from ommatid.ops.refusal import require_length
from ommatid.ops.rotary import rotate_by_position, rotate_halves


class RoutingAttention(nn.Module):
    """Multi-head attention inside clusters of tokens, positions row by row: (B, ..., C) -> (B, ..., C).

    Routing Transformer (arXiv 2003.05997). Every centroid of a head picks the same number of tokens; some heads may
    see the neighbourhood instead. Training should add the loss of `with_auxiliary_loss`.
    Cost for w = cluster_size: 4 H W C^2 + 2 max_length w C + 2 H W (max_length / w) C multiply-adds, without local
    heads.

    Args:
        dim: C.
        heads: number of heads, local ones among them.
        max_length: tokens that there are at most, from which the number of centroids follows, max_length // w.
        cluster_size: w, tokens of a cluster; the root of max_length where None.
        head_dim: channels of a head; dim / heads where None.
        local_heads: heads that see windows by position; then tokens come in multiples of the window's size.
        local_window_size: tokens of such a window, of which a token sees its own, the one before and the one behind.
        causal: no token sees later ones.
        shared_qk: keys are the queries, normed, and tokens avoid themselves.
        memory_slots: learned keys and values in each cluster; at least one where causal with keys of their own.
        commitment: weight of the loss that keeps tokens near their centroids.
        ema_decay: of the moving average by which centroids follow.
        rotary: rotary positions for queries, keys and values of heads with clusters; local heads always have them.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        max_length: int,
        *,
        cluster_size: int | None = None,
        head_dim: int | None = None,
        local_heads: int = 0,
        local_window_size: int = 64,
        causal: bool = False,
        shared_qk: bool = False,
        memory_slots: int = 0,
        commitment: float = 1e-4,
        ema_decay: float = 0.999,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        width, routed = dim // heads if head_dim is None else head_dim, heads - local_heads
        size = math.isqrt(max_length) if cluster_size is None else cluster_size
        self.commitment = commitment
        self.local = LocalHeads(dim, local_heads, width, local_window_size, causal=causal) if local_heads else None
        self.routed: RoutedHeads | None = None
        if routed:
            self.routed = RoutedHeads(
                dim,
                routed,
                width,
                Centroids(routed, max_length // size, width, decay=ema_decay),
                size,
                causal=causal,
                shared_qk=shared_qk,
                memory_slots=max(memory_slots, 1) if causal and not shared_qk else memory_slots,
                rotary=rotary,
            )
        self.proj = nn.Linear(heads * width, dim, bias=False)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """`valid` (B, N) says which of N positions are tokens, True, and which only fill up."""
        return self.with_auxiliary_loss(x, valid)[0]

    def with_auxiliary_loss(self, x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and how far tokens are from their centroids, times `commitment`; a scalar."""
        tokens = x.flatten(1, -2)
        loss = torch.zeros((), device=x.device)
        mixed = [] if self.local is None else [self.local(tokens, valid)]
        if self.routed is not None:
            clustered, distance = self.routed(tokens, valid)
            mixed.append(clustered)
            loss = self.commitment * distance
        heads = torch.cat(mixed, dim=1).transpose(1, 2).flatten(2)
        return self.proj(heads).view(x.shape), loss

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


class LocalHeads(nn.Module):
    """Heads that see windows of a sequence, with rotary positions: (B, N, C) -> (B, heads, N, d)."""

    def __init__(self, dim: int, heads: int, head_dim: int, window_size: int, *, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.window_size = window_size
        self.causal = causal
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)

    def forward(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        length = tokens.shape[1]
        require_length(length % self.window_size == 0, length, f"multiples of local windows ({self.window_size})")
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        query, key, value = (x.transpose(1, 2) for x in (rotate_halves(query), rotate_halves(key), value))
        return local_attention(query, key, value, self.window_size, causal=self.causal, valid=valid)


class RoutedHeads(nn.Module):
    """Heads with centroids: (B, N, C) -> (B, heads, N, d), and the mean squared distance of tokens to centroids."""

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        centroids: Centroids,
        cluster_size: int,
        *,
        causal: bool,
        shared_qk: bool,
        memory_slots: int,
        rotary: bool,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.centroids = centroids
        self.cluster_size = cluster_size
        self.causal = causal
        self.rotary = rotary
        self.query = nn.Linear(dim, heads * head_dim, bias=False)
        self.key = None if shared_qk else nn.Linear(dim, heads * head_dim, bias=False)
        self.value = nn.Linear(dim, heads * head_dim, bias=False)
        slots = (heads, centroids.means.shape[1], memory_slots, head_dim)
        self.memory_key = nn.Parameter(torch.randn(slots)) if memory_slots else None
        self.memory_value = nn.Parameter(torch.randn(slots)) if memory_slots else None

    def forward(self, tokens: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        query, key, value = self.split(tokens)
        routed = query if self.key is None else torch.cat([query, key], dim=2)
        if self.training:
            self.centroids.start_(routed)
        scores = centroid_scores(routed, self.centroids.means)
        distance = commitment_loss(routed, self.centroids.means, scores)
        # Of queries, and then of keys if there are any.
        members = [balanced_members(part, self.cluster_size) for part in scores.split(tokens.shape[1], dim=2)]
        memory = None
        if self.memory_key is not None and self.memory_value is not None:
            memory = (self.memory_key, self.memory_value)
        mixed = clustered_attention(
            query,
            F.normalize(key, dim=-1) if self.key is None else key,
            value,
            members[0],
            members[-1],
            memory=memory,
            causal=self.causal,
            avoid_self=self.key is None,
            valid=valid,
        )
        if self.training and mixed.requires_grad:
            self.centroids.collect(routed.detach())
            mixed.register_hook(lambda _: self.centroids.update_())
        return mixed, distance

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, heads, N, d), in float32: rounding would move tokens to other clusters."""
        with torch.autocast(tokens.device.type, enabled=False):
            layers = (self.query, self.key or self.query, self.value)
            parts = [layer(precise(tokens)).unflatten(-1, (self.heads, -1)) for layer in layers]
            if self.rotary:
                parts = [rotate_by_position(part) for part in parts]
            query, key, value = (part.transpose(1, 2) for part in parts)
        return query, key, value
