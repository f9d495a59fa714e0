"""What the Inceptions of the fourth generation are made of.

"Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning" (arXiv 1602.07261).
"""

from __future__ import annotations

from torch import nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.pool import AvgPool2d, MaxPool2d

EPS = 1e-3

# The shortest side that leaves the last map one cell, in Inception-v4 as in Inception-ResNet.
SMALLEST_IMAGE = 75


def conv_relu(in_dim: int, dim: int, kernel_size: int | tuple[int, int]) -> ConvNorm:
    """Convolution, batch norm, ReLU, padded so that the size stays: (B, H, W, C_in) -> (B, H, W, C)."""
    return ConvNorm(in_dim, dim, kernel_size, act=nn.ReLU(), eps=EPS)


def valid_conv_relu(in_dim: int, dim: int, *, stride: int = 2) -> ConvNorm:
    """3x3 convolution without padding, batch norm, ReLU: (B, H, W, C_in) -> (B, (H - 3) // stride + 1, ..., C)."""
    return ConvNorm(in_dim, dim, 3, stride=stride, padding=0, act=nn.ReLU(), eps=EPS)


def conv_chain(in_dim: int, *layers: tuple[int, int | tuple[int, int]]) -> nn.Sequential:
    """`conv_relu` after `conv_relu`, each of a (width, kernel size): (B, H, W, C_in) -> (B, H, W, C)."""
    dims = [in_dim, *(dim for dim, _ in layers)]
    return nn.Sequential(*(conv_relu(dims[i], dim, kernel_size) for i, (dim, kernel_size) in enumerate(layers)))


def averaged_conv(in_dim: int, dim: int) -> nn.Sequential:
    """1x1 convolution of the mean of every cell and its neighbours inside: (B, H, W, C_in) -> (B, H, W, C)."""
    return nn.Sequential(AvgPool2d(3, stride=1, padding=1, count_include_pad=False), conv_relu(in_dim, dim, 1))


def halving_pool() -> MaxPool2d:
    """3x3 max pooling without padding: (B, H, W, C) -> (B, (H - 1) // 2, (W - 1) // 2, C)."""
    return MaxPool2d(3, stride=2)


def inception_stem(in_dim: int) -> nn.Sequential:
    """The three convolutions that both networks begin with: (B, H, W, C_in) -> (B, (H - 1) // 2 - 2, ..., 64)."""
    return nn.Sequential(valid_conv_relu(in_dim, 32), valid_conv_relu(32, 32, stride=1), conv_relu(32, 64, 3))
