"""Convolution with kernels of each position's own, shared by groups of channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def dynamic_conv(features: Tensor, kernels: Tensor) -> Tensor:
    """Sums the K x K neighbours of every position, weighted by that position's own kernels.

    The small-kernel aggregation of LSNet (arXiv 2503.23135). Neighbours outside the map are zeros.
    Cost: K^2 H W C multiply-adds.

    Args:
        features: (B, H, W, C).
        kernels: (B, H, W, K * K, G), row-major, K odd; channel c reads kernel c modulo G. (B, 1, 1, K * K, G) where all
            positions have the same. Large kernels are read four times as fast if W is contiguous in memory.

    Returns:
        (B, H, W, C).
    """
    size, groups = round(kernels.shape[3] ** 0.5), kernels.shape[4]
    half = size // 2
    dtype = torch.promote_types(features.dtype, kernels.dtype)
    maps = features.to(dtype).permute(0, 3, 1, 2)
    if kernels.stride(2) == 1:
        maps = maps.contiguous()
    grouped = F.pad(maps, (half, half, half, half)).unflatten(1, (-1, groups))
    mixed = _DynamicConv.apply(grouped, kernels.to(dtype).permute(3, 0, 4, 1, 2).unsqueeze(2), size)
    return mixed.flatten(1, 2).permute(0, 2, 3, 1).contiguous()


def dynamic_conv_reference(features: Tensor, kernels: Tensor) -> Tensor:
    """The same by its definition: every neighbour gathered, every channel given its kernel, then one sum."""
    batch, height, width, channels = features.shape
    taps, groups = kernels.shape[3:]
    size = round(taps**0.5)
    neighbors = F.unfold(features.permute(0, 3, 1, 2), size, padding=size // 2)
    neighbors = neighbors.view(batch, channels, taps, height, width).permute(0, 3, 4, 2, 1)
    return (neighbors * kernels[..., torch.arange(channels, device=kernels.device) % groups]).sum(3)


class _DynamicConv(torch.autograd.Function):
    """features (B, C / G, G, H + K - 1, W + K - 1), kernels (K * K, B, 1, G, H, W) -> (B, C / G, G, H, W).

    Every tap is one pass over the map; the backward pass adds in place, where autograd would pad every tap's gradient.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernels: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(features, kernels)
        ctx.size = size
        shifted, others = _shifted(features, size), iter(kernels)
        output = next(shifted) * next(others)
        for neighbor, kernel in zip(shifted, others, strict=True):
            output.addcmul_(neighbor, kernel)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, kernels = ctx.saved_tensors
        grad_features, grad_kernels = torch.zeros_like(features), torch.empty_like(kernels)
        grad = torch.empty_like(next(_shifted(features, ctx.size))).copy_(grad)
        product = torch.empty_like(grad)
        operands = (_shifted(features, ctx.size), _shifted(grad_features, ctx.size), kernels, grad_kernels)
        for neighbor, grad_neighbor, kernel, grad_kernel in zip(*operands, strict=True):
            grad_neighbor.addcmul_(grad, kernel)
            grad_kernel.copy_(torch.mul(grad, neighbor, out=product).sum_to_size(kernel.shape))
        return grad_features, grad_kernels, None


def _shifted(padded: Tensor, size: int) -> Iterator[Tensor]:
    """The map (..., H, W) shifted by each tap of a kernel, out of one padded by size // 2 on all sides."""
    height, width = padded.shape[-2] - size + 1, padded.shape[-1] - size + 1
    for row in range(size):
        for column in range(size):
            yield padded[..., row : row + height, column : column + width]
