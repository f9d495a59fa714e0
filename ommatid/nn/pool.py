"""Pooling on channels-last maps."""

from __future__ import annotations

from torch import Tensor, nn


class MaxPool2d(nn.MaxPool2d):
    """`torch.nn.MaxPool2d` for maps: (B, H, W, C) -> (B, H', W', C), without copying."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class AvgPool2d(nn.AvgPool2d):
    """`torch.nn.AvgPool2d` for maps: (B, H, W, C) -> (B, H', W', C), without copying."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
