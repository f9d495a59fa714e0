"""What every ResNet is made of: "Deep Residual Learning for Image Recognition" (arXiv 1512.03385)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.pool import MaxPool2d
from ommatid.nn.residual import DropPath


class ResNetBlock(nn.Module):
    """Some convolutions and a shortcut, act(norm(branch(x) + shortcut(x))): (B, H, W, C_in) -> (B, H', W', C).

    The shortcut is a 1x1 convolution with a batch norm wherever the block changes the width or the resolution.

    Args:
        in_dim: C_in.
        dim: C.
        branch: (B, H, W, C_in) -> (B, H', W', C), with a norm at its end.
        stride: of the branch, and so of the shortcut.
        norm: of the sum; none where None.
        drop_path: stochastic depth rate of the branch.
        act: of the sum; ReLU where None.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        branch: nn.Module,
        *,
        stride: int = 1,
        norm: nn.Module | None = None,
        drop_path: float = 0.0,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if stride == 1 and in_dim == dim else ConvNorm(in_dim, dim, 1, stride=stride)
        self.norm = norm or nn.Identity()
        self.drop_path = DropPath(drop_path)
        self.act = act or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.drop_path(self.branch(x)) + self.shortcut(x)))


def resnet_stem(in_dim: int, dim: int, *, norm: nn.Module | None = None) -> nn.Sequential:
    """7x7 convolution and max pooling, both of stride 2: (B, H, W, C_in) -> (B, ceil(H/4), ceil(W/4), C)."""
    conv = ConvNorm(in_dim, dim, 7, stride=2, act=nn.ReLU(), norm=norm)
    return nn.Sequential(conv, MaxPool2d(3, stride=2, padding=1))


def basic_block(in_dim: int, dim: int, *, stride: int = 1, drop_path: float = 0.0) -> ResNetBlock:
    """Two 3x3 convolutions: (B, H, W, C_in) -> (B, H', W', C)."""
    first = ConvNorm(in_dim, dim, 3, stride=stride, act=nn.ReLU())
    return ResNetBlock(in_dim, dim, nn.Sequential(first, ConvNorm(dim, dim, 3)), stride=stride, drop_path=drop_path)


def bottleneck_block(in_dim: int, dim: int, *, stride: int = 1, drop_path: float = 0.0) -> ResNetBlock:
    """A 3x3 convolution of a fourth of the width between two 1x1: (B, H, W, C_in) -> (B, H', W', C)."""
    branch = nn.Sequential(
        ConvNorm(in_dim, dim // 4, 1, act=nn.ReLU()),
        ConvNorm(dim // 4, dim // 4, 3, stride=stride, act=nn.ReLU()),
        ConvNorm(dim // 4, dim, 1),
    )
    return ResNetBlock(in_dim, dim, branch, stride=stride, drop_path=drop_path)


def resnet_stage(
    in_dim: int, dim: int, rates: Sequence[float], *, stride: int, block: Callable[..., ResNetBlock] = basic_block
) -> nn.Sequential:
    """Blocks of one width, the first of which has the stride: (B, H, W, C_in) -> (B, H', W', C).

    rates: the drop-path rate of each block.
    """
    first, *others = rates
    blocks = [block(in_dim, dim, stride=stride, drop_path=first)]
    return nn.Sequential(*blocks, *(block(dim, dim, drop_path=rate) for rate in others))
