"""Norms on channels-last maps that PyTorch has for channels-first ones only; for layer norm use `nn.LayerNorm`."""

from __future__ import annotations

from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` for maps: (B, H, W, C) -> (B, H, W, C), without copying."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` for maps: (B, H, W, C) -> (B, H, W, C)."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
