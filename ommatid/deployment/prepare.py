"""Preparing pictures inside the graph: a file that takes them as they come, of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SHARPNESS = -0.5
"""Of the cubic kernel (Keys, 1981), as Pillow has it."""


class Prepared(nn.Module):
    """A classifier of pictures as they come: uint8, RGB, (B, 3, H, W) of any size -> what `model` answers.

    As `ommatid.data.eval_transform`: the centre square, resized to `size` (bicubic, antialiased), divided by 255, minus
    `mean`, divided by `std`; rounded and cut to 0 ... 255 after each of two passes, as Pillow does.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.to(self.mean.dtype)
        # Counted, not asked for: every exporter knows tensors, few know arithmetic on sizes.
        rows, columns = torch.ones_like(pixels[0, 0, :, 0]), torch.ones_like(pixels[0, 0, 0])
        side = torch.minimum(rows.sum(), columns.sum())
        narrow = whole_levels(pixels @ centre_resampling(columns, side, self.size).T)
        square = whole_levels(centre_resampling(rows, side, self.size) @ narrow)
        return self.model((square / 255 - self.mean) / self.std)


def whole_levels(pixels: Tensor) -> Tensor:
    return pixels.clamp(0, 255).round()


def centre_resampling(ones: Tensor, side: Tensor, size: int) -> Tensor:
    """The matrix (size, L) that resamples the middle `side` of a line of L pixels to `size` pixels, antialiased.

    Args:
        ones: (L,), its values 1.
        side: (), the pixels in the middle, at most L.
        size: pixels of the answer.
    """
    positions = ones.cumsum(0) - 1
    start = ((ones.sum() - side) / 2).round()
    scale = side / size
    centres = start + (torch.arange(size, dtype=ones.dtype, device=ones.device) + 0.5) * scale
    distance = (positions + 0.5 - centres[:, None]).abs() / scale.clamp_min(1)
    inside = (positions >= start) & (positions < start + side)
    weights = cubic(distance) * inside.to(ones.dtype)
    return weights / weights.sum(1, keepdim=True)


def cubic(distance: Tensor) -> Tensor:
    """The cubic convolution kernel, of distances 0 and more."""
    near = ((SHARPNESS + 2) * distance - (SHARPNESS + 3)) * distance.square() + 1
    far = SHARPNESS * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
