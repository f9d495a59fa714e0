"""What detectors share that read boxes off every cell of a pyramid: towers, cells."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ommatid.models.config import require
from ommatid.models.decoders.top_down import normed_conv
from ommatid.nn.conv import Conv2d

PRIOR = 0.01
"""Score of every class that training starts from: most cells see nothing."""


def require_strides(strides: tuple[int, ...]) -> None:
    """Raises ValueError, for a config, unless the levels halve from one to the next."""
    doubling = bool(strides) and all(stride == strides[0] * 2**level for level, stride in enumerate(strides))
    power = doubling and strides[0] > 0 and strides[0] & (strides[0] - 1) == 0
    require(power, "strides", strides, "powers of two, each twice the one before")


class Tower(nn.Sequential):
    """3x3 convolutions with group norms, the same for all levels: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__(*(normed_conv(dim, dim, 3) for _ in range(depth)))
        for conv in (module for module in self.modules() if isinstance(module, Conv2d)):
            nn.init.normal_(conv.weight, std=0.01)


def output_conv(dim: int, out_dim: int, *, prior: float = 0.5) -> Conv2d:
    """The last convolution of a tower, whose answers start as logits of the `prior`."""
    conv = Conv2d(dim, out_dim, 3, padding=1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, -math.log((1 - prior) / prior))
    return conv


def cell_centers(size: tuple[int, int], stride: int, device: torch.device) -> Tensor:
    """(rows * columns, 2): (x, y) in pixels of the centres of a map's cells, row-major."""
    rows, columns = (torch.arange(side, device=device) for side in size)
    y, x = torch.meshgrid((rows + 0.5) * stride, (columns + 0.5) * stride, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def edges_from(places: Tensor, boxes: Tensor) -> Tensor:
    """(N, 2) and (n, 4) -> (N, n, 4): distances to the left, top, right and bottom; negative outside of a box."""
    return torch.cat([places[:, None] - boxes[:, :2], boxes[:, 2:] - places[:, None]], -1)


def boxes_at(places: Tensor, edges: Tensor) -> Tensor:
    """(..., 2) and distances (..., 4) -> boxes (..., 4)."""
    return torch.cat([places - edges[..., :2], places + edges[..., 2:]], -1)
