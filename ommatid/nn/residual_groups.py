"""Residual groups: the body of a super-resolution network, blocks under short skips under one long skip."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from ommatid.nn.block import pyramid
from ommatid.nn.conv import Conv2d
from ommatid.nn.residual import MakeNorm, Residual

ResidualConnection = Literal["identity", "1conv", "3conv"]


class ResidualGroups(nn.Module):
    """Groups with a norm before and behind them, a convolution, and a skip over all: (B, H, W, C) -> (B, H, W, C).

    "Image Super-Resolution Using Very Deep Residual Channel Attention Networks" (arXiv 1807.02758), with the norms of
    SwinIR (arXiv 2108.10257).

    Args:
        dim: C.
        groups: each (B, H, W, C) -> (B, H, W, C), as `residual_group` makes them.
        conv: (B, H, W, C) -> (B, H, W, C), as `residual_conv` makes it.
        norm: makes the norm of a width; `nn.Identity` for none.
    """

    def __init__(
        self, dim: int, groups: Iterable[nn.Module], conv: nn.Module, *, norm: MakeNorm = nn.LayerNorm
    ) -> None:
        super().__init__()
        self.norm_before = norm(dim)
        self.groups = nn.Sequential(*groups)
        self.norm_behind = norm(dim)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.norm_behind(self.groups(self.norm_before(x))))

    def maps(self, x: Tensor) -> list[Tensor]:
        """(B, H, W, C) -> the output of each group, (B, H, W, C)."""
        return pyramid(self.groups, self.norm_before(x))


def residual_group(dim: int, blocks: Iterable[nn.Module], conv: nn.Module) -> Residual:
    """x + conv(blocks(x)): (B, H, W, C) -> (B, H, W, C)."""
    inner = nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks), conv=conv))
    return Residual(dim, inner, norm=nn.Identity)


def residual_conv(dim: int, kind: ResidualConnection) -> nn.Module:
    """What stands at the end of a group: nothing, a 3x3 convolution, or three through a quarter of the width."""
    if kind == "identity":
        return nn.Identity()
    if kind == "1conv":
        return Conv2d(dim, dim, 3, padding=1)
    narrow = dim // 4
    return nn.Sequential(
        Conv2d(dim, narrow, 3, padding=1),
        nn.LeakyReLU(0.2),
        Conv2d(narrow, narrow, 1),
        nn.LeakyReLU(0.2),
        Conv2d(narrow, dim, 3, padding=1),
    )
