"""Cutting a map into windows and putting it together again."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(features: Tensor, multiple: tuple[int, int]) -> Tensor:
    """Zero-pads (B, H, W, C) at the bottom and right until both sides are multiples of `multiple`."""
    height, width = features.shape[1:3]
    bottom, right = -height % multiple[0], -width % multiple[1]
    return F.pad(features, (0, 0, 0, right, 0, bottom)) if bottom or right else features


def center_pad_to_multiple(features: Tensor, multiple: tuple[int, int]) -> Tensor:
    """`pad_to_multiple` on all four sides, with the odd one out at the bottom or right; `center_crop` undoes it."""
    rows, columns = (-side % step for side, step in zip(features.shape[1:3], multiple, strict=True))
    padding = (0, 0, columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return F.pad(features, padding) if rows or columns else features


def pad_same(
    features: Tensor, kernel: int | tuple[int, ...], stride: int | tuple[int, ...], value: float = 0.0
) -> Tensor:
    """Pads (B, H, W, C) as TensorFlow's "SAME", so that a sliding window gives sides / stride, rounded up.

    Half of the padding is on each side, the odd one out at the bottom or right.
    """
    extents, steps = ((size, size) if isinstance(size, int) else size for size in (kernel, stride))
    sides = zip(features.shape[1:3], extents, steps, strict=True)
    rows, columns = (max((-(-side // step) - 1) * step + extent - side, 0) for side, extent, step in sides)
    padding = (0, 0, columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return F.pad(features, padding, value=value) if rows or columns else features


def center_crop(features: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of (B, H, W, C), as large as `size`."""
    top, left = (features.shape[1] - size[0]) // 2, (features.shape[2] - size[1]) // 2
    return features[:, top : top + size[0], left : left + size[1]]


def partition(features: Tensor, window: tuple[int, int], interval: int | tuple[int, int] = 1) -> Tensor:
    """(B, H, W, ...) -> (B, windows, window tokens, ...), both row-major.

    Args:
        features: H and W are multiples of the window's sides times the interval; channels may have several axes.
        window: rows and columns.
        interval: between neighbours of a window, maybe not the same (down, across). Above 1, each tile of
            down * rows x across * columns tokens holds down * across interleaved windows, ordered by their first token.
    """
    batch, height, width, *channels = features.shape
    rows, columns = window
    down, across = (interval, interval) if isinstance(interval, int) else interval
    tiles_down, tiles_across = height // (rows * down), width // (columns * across)
    grid = features.view(batch, tiles_down, rows, down, tiles_across, columns, across, *channels)
    ordered = grid.permute(0, 1, 4, 3, 6, 2, 5, *range(7, grid.dim()))
    # Sizes are named, not -1: an export for any size would carry ever longer formulas of them.
    return ordered.reshape(batch, tiles_down * down * tiles_across * across, rows * columns, *channels)


def merge(
    windows: Tensor, window: tuple[int, int], size: tuple[int, int], interval: int | tuple[int, int] = 1
) -> Tensor:
    """Undoes `partition`: (B, windows, window tokens, C) -> (B, H, W, C) where size is (H, W)."""
    (rows, columns), (height, width) = window, size
    down, across = (interval, interval) if isinstance(interval, int) else interval
    tiles_down, tiles_across = height // (rows * down), width // (columns * across)
    grid = windows.reshape(windows.shape[0], tiles_down, tiles_across, down, across, rows, columns, windows.shape[-1])
    return grid.permute(0, 1, 5, 3, 2, 6, 4, 7).reshape(windows.shape[0], height, width, windows.shape[-1])


def partition_with_halo(features: Tensor, block: int, halo: int) -> Tensor:
    """Blocks with a band around them: (B, H, W, C) -> (B, blocks, (block + 2 halo)^2, C), both row-major.

    H and W are multiples of the block's side. Beyond the border are zeros.
    """
    padded = F.pad(features, (0, 0, halo, halo, halo, halo))
    side = block + 2 * halo
    windows = padded.unfold(1, side, block).unfold(2, side, block)
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(features.shape[0], -1, side**2, features.shape[-1])


def window_and_shift(size: tuple[int, int], window_size: int) -> tuple[int, int]:
    """(window, shift) for shifted windows on a map: one that covers the shorter side shrinks to it and never shifts."""
    shorter = min(size)
    return (shorter, 0) if shorter <= window_size else (window_size, window_size // 2)
