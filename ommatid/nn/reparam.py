"""Structural reparameterisation: several linear branches while training, one convolution for inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import Conv2d, ConvNorm, depthwise_conv


class ReparamConv(nn.Module):
    """A sum of depthwise convolutions, each with its own batch norm: (B, H, W, C) -> (B, H, W, C).

    `deploy()` merges all branches exactly into one convolution with a bias, `merged`. RepVGG (arXiv 2101.03697) adds
    smaller kernels and the identity, UniRepLKNet (arXiv 2311.15599) dilated kernels.
    Cost: H W C K^2 multiply-adds for a largest kernel of K x K once deployed; the sum over the branches before.

    Args:
        dim: C.
        branches: (kernel size, dilation) of each branch; all odd, and none wider than the first.
        identity: whether the input itself is one more branch.
        scale: that the batch norms start with; 0 leaves the identity alone.
    """

    def __init__(
        self, dim: int, branches: Sequence[tuple[int, int]], *, identity: bool = False, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvNorm(dim, dim, kernel_size, dilation=dilation, groups=dim, scale=scale)
            for kernel_size, dilation in branches
        )
        self.identity = identity
        self.merged: Conv2d | None = None

    def forward(self, features: Tensor) -> Tensor:
        if self.merged is not None:
            return self.merged(features)
        first, *others = self.branches
        mixed = first(features) + features if self.identity else first(features)
        for branch in others:
            mixed = mixed + branch(features)
        return mixed

    def deploy_(self) -> None:
        if self.merged is None:
            self.merged = merged_conv([branch.conv for branch in self.branches], identity=self.identity)
            self.branches = nn.ModuleList()


def merged_conv(convs: Sequence[Any], *, identity: bool) -> Conv2d:
    """One depthwise convolution for the sum of several with biases, the first the widest, and maybe the identity."""
    widest, size = convs[0], convs[0].kernel_size[0]
    merged = depthwise_conv(widest.in_channels, size).to(widest.weight)
    merged.weight = nn.Parameter(torch.stack([dense_kernel(conv, size) for conv in convs]).sum(0))
    merged.bias = nn.Parameter(torch.stack([conv.bias for conv in convs]).sum(0))
    if identity:
        merged.weight[:, :, size // 2, size // 2] += 1
    return merged


def dense_kernel(conv: nn.Conv2d, size: int) -> Tensor:
    """The kernel of a (dilated) convolution, spread out and zero-padded to size x size, centred."""
    (kernel_size, _), (dilation, _) = conv.kernel_size, conv.dilation
    extent = dilation * (kernel_size - 1) + 1
    dense = conv.weight.new_zeros(*conv.weight.shape[:2], extent, extent)
    dense[:, :, ::dilation, ::dilation] = conv.weight
    return F.pad(dense, ((size - extent) // 2,) * 4)


def depthwise_residual(dim: int, *, scale: float = 1.0) -> ReparamConv:
    """x plus a 3x3 depthwise convolution of x, whose batch norm starts with `scale`: (B, H, W, C) -> (B, H, W, C)."""
    return ReparamConv(dim, [(3, 1)], identity=True, scale=scale)
