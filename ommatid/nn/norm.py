"""Norms on channels-last maps that PyTorch has for channels-first ones only."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ommatid.ops.refusal import require_map

# With the epsilon that most vision transformers are published with; that of PyTorch is 1e-5.
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over all axes but the last, however many: (B, ..., C) -> (B, ..., C)."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.flatten(0, -2)).view(features.shape)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` for maps: (B, H, W, C) -> (B, H, W, C), without copying."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` for maps: (B, H, W, C) -> (B, H, W, C)."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class InstanceNorm2d(GroupNorm):
    """Norms every channel of every image over its map, the same in training and after: (B, H, W, C) -> (B, H, W, C).

    "Instance Normalization: The Missing Ingredient for Fast Stylization" (arXiv 1607.08022), with learned scale and
    shift.

    Raises:
        ValueError: the map has one position only, of which nothing would be left.
    """

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__(dim, dim, eps=eps)

    def forward(self, features: Tensor) -> Tensor:
        require_map(features.shape[1:3] != (1, 1), features, "more than one position to norm over")
        return super().forward(features)


class InstanceBatchNorm(nn.Module):
    """Instance norm of the first half of the channels, batch norm of the others: (B, H, W, C) -> (B, H, W, C).

    The first half forgets how the image looks (its contrast and colour cast), the second keeps what is in it. From
    IBN-Net (arXiv 1807.09441).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dims = [dim // 2, dim - dim // 2]
        self.instance = InstanceNorm2d(self.dims[0])
        self.batch = BatchNorm2d(self.dims[1])

    def forward(self, features: Tensor) -> Tensor:
        first, second = features.split(self.dims, dim=-1)
        return torch.cat([self.instance(first), self.batch(second)], dim=-1)


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` in the precision of its weight, as layer norm is under autocast: (..., C) -> (..., C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class GlobalResponseNorm(nn.Module):
    """Makes channels compete by their strength over the whole map: (B, H, W, C) -> (B, H, W, C).

    y = (weight * G / mean(G) + 1) x + bias, where G is each channel's L2 norm over the map. From ConvNeXt V2
    (arXiv 2301.00808).
    """

    def __init__(self, dim: int, *, bias: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        strength = torch.linalg.vector_norm(features, dim=(1, 2), keepdim=True)
        relative = strength / (strength.mean(-1, keepdim=True) + self.eps)
        scaled = features * (self.weight * relative + 1)
        return scaled if self.bias is None else scaled + self.bias
