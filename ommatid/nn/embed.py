"""From an image to a map, and from a map to a coarser one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.conv import Conv2d
from ommatid.ops.windows import pad_to_multiple


class PatchEmbed(nn.Module):
    """A strided convolution, then optionally a norm: (B, H, W, C_in) -> (B, H', W', C).

    With padding 0 and stride = kernel these are plain patches, and rows and columns past the last whole patch
    are not read; with a kernel larger than the stride the patches overlap.

    Args:
        in_dim: C_in.
        dim: C.
        kernel_size: side of a patch.
        stride: between patches; the kernel's size where None.
        padding: zeros around the map.
        norm: applied after the convolution.
        bias: of the convolution.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        kernel_size: int,
        *,
        stride: int | None = None,
        padding: int = 0,
        norm: nn.Module | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.proj = Conv2d(in_dim, dim, kernel_size, stride=stride or kernel_size, padding=padding, bias=bias)
        self.norm = norm or nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.proj(features))


class PatchMerging(nn.Module):
    """Joins each 2x2 square of tokens into one: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C_out).

    Channels are concatenated in the order (0,0), (1,0), (0,1), (1,1) of (row, column), normed, and reduced by one
    linear layer. Odd sides are zero-padded at the bottom and right. From Swin Transformer (arXiv 2103.14030).
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        even = pad_to_multiple(features, (2, 2))
        corners = [even[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))
