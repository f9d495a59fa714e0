"""Masked attention: scores are multiplied by how near two positions are, not increased by it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.position import distance_index
from ommatid.ops.attention import attend


class MaskedAttention(nn.Module):
    """Multi-head self-attention softmax(mask * q k^T / sqrt(d)) v: (B, ..., C) -> (B, ..., C), whatever axes between.

    "RetNet Viewed through Convolution" (arXiv 2309.05375). A mask of 0 makes a score 0, it does not forbid the pair.
    Cost: 4 H W C I + 2 (H W)^2 I multiply-adds, I = heads * head_dim.

    Args:
        dim: C.
        heads: number of heads.
        head_dim: d. One head of width C has no projection behind it.
        mask: () -> what multiplies the scores, (heads, N, N) or (N, N); None for plain attention.

    Raises:
        ValueError: the mask is for another number N of tokens.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, *, mask: nn.Module | None = None) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.scale = head_dim**-0.5  # also of heads that have lost units since
        self.qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.mask = mask
        self.proj = nn.Identity() if (heads, head_dim) == (1, dim) else nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x.flatten(1, -2)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if self.mask is None:
            mixed = attend(query, key, value, scale=self.scale)
        else:
            mixed = masked_attend(query, key, value, self.mask(), scale=self.scale)
        return self.proj(mixed).view(x.shape)


def masked_attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, scale: float) -> Tensor:
    """softmax(mask * q k^T * scale) v on (B, N, heads, d), with a mask (heads, N, N) or (N, N): (B, N, heads d)."""
    tokens = query.shape[1]
    if mask.shape[-1] != tokens:
        raise ValueError(f"{tokens} tokens are not possible: allowed is {mask.shape[-1]}, as many as the mask is for")
    query, key, value = (part.transpose(1, 2) for part in (query * scale, key, value))
    return ((mask * (query @ key.mT)).softmax(-1) @ value).transpose(1, 2).flatten(2)


class GaussianMixtureMask(nn.Module):
    """A sum of learned Gaussians of the distance of two positions, for every head: () -> (heads, N, N).

    sum_k weight_k exp(-distance^2 / (2 (width_k^2 + 1e-5))). `deploy()` computes it once and for all.

    Args:
        grid: rows and columns of the map, N positions together.
        heads: number of heads.
        kernels: number of Gaussians.
    """

    def __init__(self, grid: tuple[int, int], heads: int, kernels: int = 5) -> None:
        super().__init__()
        self.closeness: Tensor
        self.index: Tensor
        self.constant: Tensor | None
        self.weight = nn.Parameter(2 * torch.randn(kernels, heads))
        self.width = nn.Parameter(10 * torch.randn(kernels, heads) + 10)
        self.register_buffer("closeness", closeness_by_distance(grid), persistent=False)
        self.register_buffer("index", distance_index(grid), persistent=False)
        self.register_buffer("constant", None, persistent=False)

    def forward(self) -> Tensor:
        if self.constant is not None:
            return self.constant
        gaussians = self.closeness ** (1 / (self.width.square() + 1e-5)).unsqueeze(-1)
        by_distance = (self.weight.unsqueeze(-1) * gaussians).sum(0)
        return by_distance[:, self.index.flatten()].view(-1, *self.index.shape)

    def deploy_(self) -> None:
        self.constant = self()


def closeness_by_distance(grid: tuple[int, int]) -> Tensor:
    """(rows * columns,): exp(-(dy^2 + dx^2) / 2) for positions dy rows and dx columns apart.

    As in the reference the root is taken last, so that in float32 it is 0 from about ten cells on; under wide Gaussians
    that shows.
    """
    rows, columns = (torch.arange(side, dtype=torch.float32).square() for side in grid)
    return (-(rows[:, None] + columns[None, :])).exp().sqrt().flatten()


class LearnedMask(nn.Module):
    """A free factor for every pair of N tokens, the same for all heads, at first 0: () -> (N, N)."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.zeros(tokens, tokens))

    def forward(self) -> Tensor:
        return self.factors
