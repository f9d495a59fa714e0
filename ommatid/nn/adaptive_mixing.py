"""Mixing sampled points with matrices that the token makes for them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.init import init_linear_, init_norm_and_last_


class AdaptiveMixing(nn.Module):
    """What a token makes of its P points: channels mixed, then points, by matrices that follow from the token.

    (B, N, P, C_f) and tokens (B, N, D) -> (B, N, D). From AdaMixer (arXiv 2203.16507), as in SparseFormer
    (arXiv 2304.03768). Cost: N (P C_f^2 + Q P C_f + Q C_f D + g (D + C_f^2 + Q P)) multiply-adds.

    Args:
        dim: D.
        point_dim: C_f.
        points: P; Q = max(P, 32) come out of the mixing.
        generator_dim: g, between the two linear layers that make the matrices.
        biased: whether a bias and a GELU are behind the mixing of channels, and a bias behind that of points.
        eps: of the layer norm.
    """

    def __init__(
        self, dim: int, point_dim: int, points: int, *, generator_dim: int, biased: bool, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.point_dim, self.points, self.out_points = point_dim, points, max(points, 32)
        matrices = nn.Linear(generator_dim, point_dim**2 + self.out_points * points)
        self.generator = nn.Sequential(nn.LayerNorm(dim, eps=eps), nn.Linear(dim, generator_dim), matrices)
        self.channel_bias = nn.Parameter(torch.zeros(point_dim)) if biased else None
        self.point_bias = nn.Parameter(torch.zeros(self.out_points)) if biased else None
        self.proj = nn.Linear(self.out_points * point_dim, dim)
        self.init_()

    def forward(self, sampled: Tensor, tokens: Tensor) -> Tensor:
        channels, points = self.generator(tokens).split([self.point_dim**2, self.out_points * self.points], dim=-1)
        mixed = sampled @ channels.unflatten(-1, (self.point_dim, self.point_dim))
        if self.channel_bias is not None:
            mixed = F.gelu(mixed + self.channel_bias)
        mixed = points.unflatten(-1, (self.out_points, self.points)) @ mixed
        if self.point_bias is not None:
            mixed = mixed + self.point_bias[:, None]
        return self.proj(F.gelu(mixed).flatten(2))

    def init_(self) -> None:
        """The matrices begin the same for all tokens."""
        self.apply(init_linear_)
        init_norm_and_last_(self.generator)
        sides = ((self.point_dim, self.point_dim), (self.out_points, self.points))
        uniform = [torch.empty(a * b).uniform_(-1, 1) * math.sqrt(6 / (a + b)) for a, b in sides]
        matrices = self.generator[-1]
        assert isinstance(matrices, nn.Linear)
        matrices.bias.data = torch.cat(uniform)
