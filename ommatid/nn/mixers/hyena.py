"""Hyena in two dimensions: gates and convolutions as large as the map, with filters made from positions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.nn.deploy import scale_output_
from ommatid.nn.implicit_filter2d import DirectFilter, ImplicitFilter2d, JointSurface, ProductSurface, Window
from ommatid.ops.fft_conv import long_conv2d

Direction = Literal["standard", "four", "four_mixed", "alternate"]

BOTH = (-2, -1)
MIRRORS: tuple[tuple[int, ...], ...] = ((), BOTH, (-1,), (-2,))
"""What is mirrored in the four directions: nothing, rows and columns, columns, rows."""


class Hyena2d(nn.Module):
    """A chain of gates and convolutions as large as the map: (B, H, W, C) -> (B, H, W, C).

    "Multi-Dimensional Hyena for Spatial Inductive Bias" (arXiv 2309.13600). A convolution reads what is above and to
    the left; in "four" directions that becomes everything.
    Cost for r = order, k directions: H W ((r + 2) C^2 + 9 (r + 1) C) multiply-adds, and about
    60 k (r - 1) H W C log2(4 H W) for the transforms; with k = 4 also 4 H W C, or 4 H W C^2 if mixed.

    Args:
        dim: C.
        size: (H, W) that filters are made for; positions on larger or smaller maps lie between those of this one.
        order: r, gates; one more than convolutions, at least 2.
        filter: a network makes a value of row and column ("joint"), or two do whose results are multiplied
            ("product"), or every value is free to learn ("direct").
        window: how filters fade with the distance; "symmetric" is for "joint".
        sqrt_decay: makes the square root of the window, in "joint".
        filter_dim, position_dim, inner_layers: width of the networks, of the positions, and layers between.
        direction: "four" runs all on four mirrored maps and takes one mixture of these for all channels, "four_mixed"
            lets channels mix, too; in "alternate" the first convolution looks the other way.
    """

    def __init__(
        self,
        dim: int,
        size: tuple[int, int],
        *,
        order: int = 2,
        filter: Literal["product", "joint", "direct"] = "product",
        window: Window = "standard",
        sqrt_decay: bool = False,
        filter_dim: int = 64,
        position_dim: int = 3,
        inner_layers: int = 2,
        direction: Direction = "four",
    ) -> None:
        super().__init__()
        self.order = order
        self.alternate = direction == "alternate"
        self.mirrors = MIRRORS if direction.startswith("four") else MIRRORS[:1]
        self.in_proj = nn.Linear(dim, (order + 1) * dim)
        self.short_filter = depthwise_conv((order + 1) * dim, 3)
        width, side = (order - 1) * dim, max(size)
        self.filter: nn.Module
        if filter == "direct":
            self.filter = DirectFilter(dim, side, order - 1)
        else:
            surface: nn.Module
            if filter == "product":
                surface = ProductSurface(position_dim, filter_dim, width, inner_layers, window)
            else:
                surface = JointSurface(position_dim, filter_dim, width, inner_layers, window, sqrt_decay=sqrt_decay)
            self.filter = ImplicitFilter2d(surface, width, side, position_dim=position_dim, hidden=filter_dim)
        self.merge = _MERGES[direction](dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.merge(self.gated(x)))

    def gated(self, x: Tensor) -> Tensor:
        """What all but the last layers make of a map, in each direction: (B, H, W, C) -> (B, k, H, W, C)."""
        maps = self.short_filter(self.in_proj(x)).permute(0, 3, 1, 2)
        mirrored = torch.stack([maps.flip(axes) for axes in self.mirrors], dim=1)
        first, *gates, value = mirrored.chunk(self.order + 1, dim=2)
        kernels, skips = (part.unflatten(0, (self.order - 1, -1)) for part in self.filter(max(x.shape[1:3])))
        for step, (gate, kernel, skip) in enumerate(zip(reversed(gates), kernels, skips, strict=True)):
            backwards = BOTH if self.alternate and step == 0 else ()
            value = convolved((value * gate).flip(backwards), kernel, skip).flip(backwards)
        value = value * first
        seen = [value[:, number].flip(axes) for number, axes in enumerate(self.mirrors)]
        return torch.stack(seen, dim=1).permute(0, 1, 3, 4, 2)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


def convolved(x: Tensor, kernel: Tensor, skip: Tensor) -> Tensor:
    """(..., C, H, W), with a kernel (C, L, L) and the share of a position itself, (C,)."""
    height, width = x.shape[-2:]
    gain = 1 / (2 * kernel.shape[-1])
    return long_conv2d(x, gain * kernel[:, :height, :width]) + skip[:, None, None] * x


class FirstDirection(nn.Module):
    """The only direction that there is: (B, 1, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, seen: Tensor) -> Tensor:
        return seen.squeeze(1)


class DirectionMix(nn.Module):
    """One mixture of the four directions for all channels: (B, 4, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(len(MIRRORS), 1)

    def forward(self, seen: Tensor) -> Tensor:
        return self.linear(seen.movedim(1, -1)).squeeze(-1)


class DirectionChannelMix(nn.Module):
    """Mixes the channels of the four directions: (B, 4, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(len(MIRRORS) * dim, dim)

    def forward(self, seen: Tensor) -> Tensor:
        return self.linear(seen.movedim(1, -1).flatten(-2))


_MERGES: dict[str, type[nn.Module]] = {
    "standard": FirstDirection,
    "alternate": FirstDirection,
    "four": DirectionMix,
    "four_mixed": DirectionChannelMix,
}
