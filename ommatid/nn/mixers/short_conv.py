"""Gated short convolution: every token reads the few just before it, and decides what to keep."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_


class GatedShortConv(nn.Module):
    """W2 (SiLU(conv(a)) * b) with (a, b) = W1 x and a causal depthwise convolution: (B, ..., C) -> (B, ..., C).

    The cheapest mixer of Based (arXiv 2402.18668); positions are read row by row.
    Cost for D = expand C / 2: H W D (3 C + kernel_size) multiply-adds.

    Args:
        dim: C.
        kernel_size: how many tokens one reads, itself among them.
        expand: channels inside, both halves together, are expand * dim; an even number.
        bias: of the two linear layers; the convolution has none.
    """

    def __init__(self, dim: int, *, kernel_size: int = 3, expand: int = 4, bias: bool = True) -> None:
        super().__init__()
        hidden = expand * dim // 2
        self.fc1 = nn.Linear(dim, 2 * hidden, bias=bias)
        self.conv = nn.Conv1d(hidden, hidden, kernel_size, groups=hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        read, gate = self.fc1(x.flatten(1, -2)).chunk(2, dim=-1)
        past = F.pad(read.mT, (self.conv.kernel_size[0] - 1, 0))
        return self.fc2(F.silu(self.conv(past).mT) * gate).view(x.shape)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.fc2, scale)
