"""Scale-aware modulation: heads with kernels of growing size, joined across heads, weigh the values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm, depthwise_conv
from ommatid.nn.deploy import scale_output_


class ScaleAwareModulation(nn.Module):
    """Values times what depthwise kernels of 3, 5, 7, ... saw, one size for each head: (B, H, W, C) -> (B, H, W, C).

    SMT (arXiv 2307.08579). The channels of the same number in all heads are mixed with each other first, then all.
    Cost, with m heads, a last kernel K = 2 m + 1 and expansion E: about H W (3 C^2 + E C^2 + E m C + C K^2 / 3)
    multiply-adds.

    Args:
        dim: C.
        heads: m, number of kernel sizes; divides C.
        expand_ratio: E, width between the two mixing layers in C.
        qkv_bias: bias of the two layers that read the input.
    """

    def __init__(self, dim: int, heads: int, *, expand_ratio: int = 2, qkv_bias: bool = True) -> None:
        super().__init__()
        head_dim = dim // heads
        self.value = nn.Linear(dim, dim, bias=qkv_bias)
        self.scales = nn.Linear(dim, dim, bias=qkv_bias)
        self.convs = nn.ModuleList(depthwise_conv(head_dim, 3 + 2 * head) for head in range(heads))
        self.mix_heads = ConvNorm(dim, expand_ratio * dim, 1, groups=head_dim, bias=True, act=nn.GELU())
        self.mix_channels = nn.Linear(expand_ratio * dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.scales(x).chunk(len(self.convs), dim=-1)
        seen = torch.stack([conv(head) for conv, head in zip(self.convs, heads, strict=True)], dim=-1).flatten(-2)
        return self.proj(self.mix_channels(self.mix_heads(seen)) * self.value(x))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
