"""Convolutions on channels-last maps."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.deploy import fold_norm_after_
from ommatid.nn.norm import BatchNorm2d
from ommatid.ops.windows import pad_same


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` for maps: (B, H, W, C) -> (B, H', W', C'), without copying either."""

    def forward(self, features: Tensor) -> Tensor:
        if self._breaks_backward():
            rows, columns = self.stride
            return F.linear(features[:, ::rows, ::columns], self.weight.flatten(1), self.bias)
        return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _breaks_backward(self) -> bool:
        """Whether this is a strided 1x1 convolution of few channels.

        Of those, on channels-last maps, the backward pass of oneDNN in PyTorch 2.15 writes outside of its memory.
        """
        pointwise = self.kernel_size == (1, 1) and self.groups == 1 and self.padding == (0, 0)
        return pointwise and self.stride != (1, 1) and self.in_channels < 16


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` for videos: (B, T, H, W, C) -> (B, T', H', W', C'), without copying either."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


class SameConv2d(Conv2d):
    """A convolution zero-padded as TensorFlow's "SAME", the odd zero at the bottom or right: sides / stride, up."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(pad_same(features, self.kernel_size, self.stride))


class ConvTranspose2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` for maps: (B, H, W, C) -> (B, H', W', C'), without copying either."""

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvTranspose3d(nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` for volumes: (B, D, H, W, C) -> (B, D', H', W', C'), without copying either."""

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(features.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


def depthwise_conv(dim: int, kernel_size: int, *, stride: int = 1, dilation: int = 1, bias: bool = True) -> Conv2d:
    """A convolution of every channel by itself, zero-padded so that stride 1 keeps the size; the kernel is odd."""
    padding = dilation * (kernel_size // 2)
    return Conv2d(dim, dim, kernel_size, stride=stride, padding=padding, dilation=dilation, groups=dim, bias=bias)


def depthwise_conv3d(dim: int, kernel_size: int) -> Conv3d:
    """A convolution of every channel of a video by itself, zero-padded to keep its size; the kernel is odd."""
    return Conv3d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)


class ConvNorm(nn.Module):
    """Convolution, batch norm, activation: (B, H, W, C_in) -> (B, H', W', C). `deploy()` folds the norm.

    Args:
        in_dim: C_in.
        dim: C.
        kernel_size, stride, padding, dilation, groups, bias: of the convolution; padding None keeps stride 1's size,
            "same" pads strided ones as `SameConv2d` does.
        act: the activation; None for none.
        eps: of the batch norm.
        scale: that the batch norm starts with; 0 where a residual branch ends here and is to start at zero.
        norm: another norm in place of the batch norm; `deploy()` leaves it, `eps` and `scale` mean nothing to it.
            `nn.Identity` for none.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] | Literal["same"] | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        act: nn.Module | None = None,
        eps: float = 1e-5,
        scale: float = 1.0,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        rows, columns = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        same = padding == "same" and stride > 1
        if not isinstance(padding, int | tuple):
            padding = 0 if same else (dilation * (rows // 2), dilation * (columns // 2))
        self.conv = (SameConv2d if same else Conv2d)(
            in_dim,
            dim,
            (rows, columns),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.norm: nn.Module = norm or scaled_batch_norm(dim, eps, scale)
        self.act = act or nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(features)))

    def deploy_(self) -> None:
        if isinstance(self.norm, BatchNorm2d):
            fold_norm_after_(self.conv, self.norm)
            self.norm = nn.Identity()


def scaled_batch_norm(dim: int, eps: float, scale: float) -> BatchNorm2d:
    norm = BatchNorm2d(dim, eps=eps)
    nn.init.constant_(norm.weight, scale)
    return norm
