"""Pooling on channels-last maps."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ommatid.ops.windows import pad_same


class MaxPool2d(nn.MaxPool2d):
    """`torch.nn.MaxPool2d` for maps: (B, H, W, C) -> (B, H', W', C), without copying."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class AvgPool2d(nn.AvgPool2d):
    """`torch.nn.AvgPool2d` for maps: (B, H, W, C) -> (B, H', W', C), without copying."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SameMaxPool2d(MaxPool2d):
    """Max pooling over what is inside the map, windows as in TensorFlow's "SAME": sides / stride, rounded up."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(pad_same(features, self.kernel_size, self.stride, value=-math.inf))


class SameAvgPool2d(AvgPool2d):
    """Average pooling with the windows of `SameMaxPool2d`, in which the zeros around the map count."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(pad_same(features, self.kernel_size, self.stride))
