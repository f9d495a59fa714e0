"""Rare class sampling: the rarer a class, the more often a picture is taken because of it.

DAFormer (arXiv 2111.14887).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from ommatid.models.config import require


def rare_class_shares(pixels: Tensor, *, temperature: float = 0.01) -> tuple[Tensor, Tensor]:
    """How often each class is to be drawn: the softmax of what is left beside its share of all pixels.

    Args:
        pixels: (images, classes), how many pixels of a class each image has.
        temperature: the higher, the more alike the classes are.

    Returns:
        The classes that there are, (n,), the rarest first, of equal ones that which the images show first; and the
        probability of each, (n,).

    Raises:
        ValueError: no image has any pixel.
    """
    totals = pixels.sum(0)
    require(bool((totals > 0).any()), "pixels", tuple(pixels.shape), "counts that are not all 0")
    first_image = (pixels > 0).int().argmax(0)
    shown = first_image.argsort(stable=True)
    shown = shown[totals[shown] > 0]
    classes = shown[totals[shown].argsort(stable=True)]
    shares = totals[classes].double() / totals.sum()
    return classes, ((1 - shares) / temperature).softmax(0).float()


def draw_source(
    pixels: Tensor, *, temperature: float = 0.01, min_pixels: int = 3000, generator: torch.Generator | None = None
) -> tuple[int, int]:
    """A class, and an image that has more than `min_pixels` of it; `pixels` as in `rare_class_shares`.

    Raises:
        ValueError: no image has that many pixels of the class that was drawn.
    """
    classes, shares = rare_class_shares(pixels, temperature=temperature)
    kind = int(classes[torch.multinomial(shares, 1, generator=generator)])
    images = (pixels[:, kind] > min_pixels).nonzero()[:, 0]
    most = int(pixels[:, kind].max())
    require(len(images) > 0, "min_pixels", min_pixels, f"below {most}, what an image has most of class {kind}")
    return kind, int(images[torch.randint(len(images), (1,), generator=generator)])


def draw_crop(
    label: Tensor,
    size: tuple[int, int],
    kind: int,
    *,
    min_pixels: float = 1500,
    tries: int = 10,
    generator: torch.Generator | None = None,
) -> tuple[int, int]:
    """Top and left of a crop of a label map (H, W) that has more than `min_pixels` of a class; the last of the tries
    where none has.

    Raises:
        ValueError: the crop is larger than the map.
    """
    rooms = [side - wanted for side, wanted in zip(label.shape, size, strict=True)]
    require(min(rooms) >= 0, "size", size, f"up to {tuple(label.shape)}, that of the label map")

    def crops() -> Iterator[tuple[int, int]]:
        while True:
            top, left = (int(torch.randint(room + 1, (1,), generator=generator)) for room in rooms)
            yield top, left

    top, left = 0, 0
    for top, left in islice(crops(), tries):
        if (label[top : top + size[0], left : left + size[1]] == kind).sum() > min_pixels:
            break
    return top, left
