"""Efficient modulation: values are multiplied with their surroundings, which a small convolution sums up."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.nn.deploy import scale_output_


class EfficientModulation(nn.Module):
    """Multiplies widened features with a context of width C, repeated over them: (B, H, W, C) -> (B, H, W, C).

    EfficientMod (arXiv 2403.19963): token mixer and MLP in one. With a ratio of 1 the values have no activation.
    Cost: H W (2 C^2 + 2 r C^2 + C times the sum of K^2) multiply-adds.

    Args:
        dim: C.
        ratio: r, width of the values in C.
        kernel_sizes: every K, odd, of the depthwise convolutions whose sum is the context.
    """

    def __init__(self, dim: int, ratio: int, kernel_sizes: Sequence[int]) -> None:
        super().__init__()
        self.context_in = nn.Linear(dim, dim)
        self.convs = nn.ModuleList(depthwise_conv(dim, size) for size in kernel_sizes)
        self.act = nn.GELU()
        self.context_out = nn.Linear(dim, dim)
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.value_act = nn.GELU() if ratio > 1 else nn.Identity()
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.context_in(x)
        first, *others = self.convs
        context = self.act(first(narrow))
        for conv in others:
            context = context + self.act(conv(narrow))
        values = self.value_act(self.fc1(x)).unflatten(-1, (-1, x.shape[-1]))
        return self.fc2((values * self.context_out(context).unsqueeze(-2)).flatten(-2))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.fc2, scale)
