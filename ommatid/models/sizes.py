"""Sizes of images and of the maps made from them, and the checks that families make of both."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ommatid.models.config import require, require_positive


@dataclass(frozen=True)
class ImageSizes:
    """Which images a model takes: of sides that are multiples of `multiple` and at least `smallest`, or of one size.

    Models that take others too say here what dense prediction pads images to. `square`: whether the sides are equal.
    """

    multiple: int = 1
    smallest: int = 1
    fixed: tuple[int, int] | None = None
    square: bool = False

    def fitting(self, height: int, width: int, multiple: int = 1) -> tuple[int, int]:
        """The smallest (height, width) that images of these sides can be padded to; multiples of `multiple` too.

        Raises:
            ValueError: there is one size only, and it is smaller.
        """
        if self.fixed is not None:
            fits = height <= self.fixed[0] and width <= self.fixed[1]
            require(fits, "image size", (height, width), f"up to {self.fixed}, fixed by image_size")
            return self.fixed
        step = math.lcm(self.multiple, multiple)
        rows, columns = (ceil_to_multiple(max(side, self.smallest), step) for side in (height, width))
        return (max(rows, columns),) * 2 if self.square else (rows, columns)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """`n` or `(h, w)` -> `(h, w)`."""
    return (size, size) if isinstance(size, int) else size


def whole_patches(image_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """(rows, columns) of the patches in an image; what is left over at the bottom and right does not count."""
    height, width = pair(image_size)
    return height // patch_size, width // patch_size


def require_patches(image_size: int | tuple[int, int], patch_size: int) -> None:
    """Raises ValueError, for a config, unless there is at least one whole patch."""
    require_positive(patch_size=patch_size)
    whole = min(whole_patches(image_size, patch_size)) > 0
    require(whole, "image_size", image_size, f"at least one patch of {patch_size} a side")


def require_at_least(image: Tensor, smallest: int) -> None:
    """Raises ValueError for images (B, C, H, W) with a side of fewer pixels."""
    size = tuple(image.shape[-2:])
    require(min(size) >= smallest, "image size", size, f"at least {smallest} a side")


def require_exactly(image: Tensor, image_size: int | tuple[int, int]) -> None:
    """Raises ValueError for images (B, C, H, W) of any other size."""
    size, fixed = tuple(image.shape[-2:]), pair(image_size)
    require(size == fixed, "image size", size, f"{fixed}, fixed by image_size")


def halved(size: tuple[int, int], times: int) -> tuple[int, int]:
    """(rows, columns) of a map after it was halved some times, rounding up."""
    rows, columns = size
    return -(-rows // 2**times), -(-columns // 2**times)


def ceil_to_multiple(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
