"""Bicubic resizing by whole factors, as MATLAB's `imresize` does it and with it the super-resolution literature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 2
"""Half the support of the cubic kernel (Keys, 1981, a = -0.5), in pixels of the coarser of the two pictures."""


def shrink_bicubic(image: Tensor, factor: int) -> Tensor:
    """Antialiased: the kernel is as wide as `factor` demands, and the picture is mirrored beyond its border.

    Args:
        image: (..., C, H, W), float.
        factor: pixels of the picture for each of the answer, along both axes.

    Returns:
        (..., C, ceil(H / factor), ceil(W / factor)). Values may go beyond those of the picture.
    """
    height, width = (-(-side // factor) for side in image.shape[-2:])
    margin = REACH * factor
    mirrored = _mirror(image, -margin, (height * factor + margin, width * factor + margin))
    resized = _resize(mirrored, (height + 2 * REACH, width + 2 * REACH))
    return resized[..., REACH:-REACH, REACH:-REACH]


def enlarge_bicubic(image: Tensor, factor: int) -> Tensor:
    """(..., C, H, W), float -> (..., C, factor H, factor W); mirrored beyond its border. Values may go beyond."""
    height, width = image.shape[-2:]
    mirrored = _mirror(image, -REACH, (height + REACH, width + REACH))
    resized = _resize(mirrored, ((height + 2 * REACH) * factor, (width + 2 * REACH) * factor))
    margin = REACH * factor
    return resized[..., margin:-margin, margin:-margin]


def _mirror(image: Tensor, start: int, ends: tuple[int, int]) -> Tensor:
    """Rows and columns from `start` up to `ends` of a picture that is mirrored, its edge repeated, without end."""
    for axis, end in zip((-2, -1), ends, strict=True):
        side = image.shape[axis]
        before, after = (
            image.index_select(axis, _mirrored_index(torch.arange(*beyond, device=image.device), side))
            for beyond in ((start, 0), (side, end))
        )
        image = torch.cat((before, image, after), dim=axis)
    return image


def _mirrored_index(index: Tensor, side: int) -> Tensor:
    within = index % (2 * side)
    return torch.minimum(within, 2 * side - 1 - within)


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """PyTorch's kernel is the same; at a border it leaves out what lies beyond, which is why ours are cut off."""
    pictures = image.reshape(-1, *image.shape[-3:])
    resized = F.interpolate(pictures, size=size, mode="bicubic", antialias=True, align_corners=False)
    return resized.reshape(*image.shape[:-2], *size)
