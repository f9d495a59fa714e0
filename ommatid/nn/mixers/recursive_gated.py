"""Recursive gated convolution: features are multiplied, again and again, with filtered ones."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.nn.deploy import scale_output_


class RecursiveGatedConv(nn.Module):
    """Products of `order` filtered maps, each twice as wide as the one before: (B, H, W, C) -> (B, H, W, C).

    HorNet (arXiv 2207.14284): every product raises the order of the interaction between positions by one.
    Cost: H W (3 C^2 + 2 / 3 (1 - 4^(1 - n)) C^2) multiply-adds, with n the order, and that of the filter of 2 C - d_1
    channels: 49 H W (2 C - d_1) for the 7x7 one.

    Args:
        dim: C, a multiple of 2 ** (order - 1).
        order: number of products; the first has width d_1 = C / 2 ** (order - 1).
        make_filter: makes the spatial filter of a width; a 7x7 depthwise convolution where None.
        scale: multiplies what was filtered.
    """

    def __init__(
        self,
        dim: int,
        order: int,
        *,
        make_filter: Callable[[int], nn.Module] | None = None,
        scale: float = 1 / 3,
    ) -> None:
        super().__init__()
        self.widths = [dim // 2 ** (order - 1 - step) for step in range(order)]
        self.scale: float | None = scale
        self.proj_in = nn.Linear(dim, 2 * dim)
        filtered = sum(self.widths)
        self.filter = make_filter(filtered) if make_filter else depthwise_conv(filtered, 7)
        self.expand = nn.ModuleList(
            nn.Linear(narrow, wide) for narrow, wide in zip(self.widths, self.widths[1:], strict=False)
        )
        self.proj_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, unfiltered = self.proj_in(x).split([self.widths[0], sum(self.widths)], dim=-1)
        filtered = self.filter(unfiltered)
        if self.scale is not None:
            filtered = filtered * self.scale
        first, *others = filtered.split(self.widths, dim=-1)
        product = value * first
        for expand, factor in zip(self.expand, others, strict=True):
            product = expand(product) * factor
        return self.proj_out(product)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj_out, scale)

    def deploy_(self) -> None:
        """Moves the scale into the layers whose outputs meet what was filtered."""
        if self.scale is not None:
            scale, self.scale = self.scale, None
            self.proj_in.weight[: self.widths[0]].mul_(scale)
            self.proj_in.bias[: self.widths[0]].mul_(scale)
            for expand in self.expand:
                assert isinstance(expand, nn.Linear)
                scale_output_(expand, expand.weight.new_tensor(scale))
