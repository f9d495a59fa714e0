"""Large pictures cut into a square of smaller ones, and put together again."""

from __future__ import annotations

from torch import Tensor


def split_squares(image: Tensor, splits: int) -> Tensor:
    """(B, C, n h, n w) -> (n n B, C, h, w): tiles row by row, the images of the batch innermost.

    Raises:
        ValueError: a side is not divisible by the number of splits n.
    """
    if splits < 1 or image.shape[2] % splits or image.shape[3] % splits:
        size = (image.shape[2], image.shape[3])
        raise ValueError(
            f"image size = {size} is not possible: allowed are multiples of the number of splits ({splits})"
        )
    return image.unflatten(3, (splits, -1)).unflatten(2, (splits, -1)).permute(2, 4, 0, 1, 3, 5).flatten(0, 2)


def merge_squares(tiles: Tensor, splits: int) -> Tensor:
    """Undoes `split_squares`: (n n B, C, h, w) -> (B, C, n h, n w)."""
    grid = tiles.unflatten(0, (splits, splits, -1))
    return grid.permute(2, 3, 0, 4, 1, 5).flatten(4, 5).flatten(2, 3)
