"""Two random views of an image, and where in it they lie."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as F

from ommatid.methods.pretraining.pixel_matching import crop_box

SCALE, RATIO = [0.08, 1.0], [3 / 4, 4 / 3]
"""Area of a view as a share of the image's, and width over height."""


def random_views(image: Tensor, size: int, *, flip: float) -> tuple[Tensor, Tensor]:
    """Image (3, H, W) uint8 -> two views (2, 3, size, size) uint8 and their boxes (2, 4), as of `crop_box`.

    Cropped, mirrored with the probability `flip`, and changed in colour as BYOL does (arXiv 2006.07733): the first is
    blurred, the second may be solarised. Randomness is PyTorch's global generator's.
    """
    views, boxes = zip(*(_view(image, size, flip, colours) for colours in _colours(size)), strict=True)
    return torch.stack(views), torch.stack(boxes)


def _view(image: Tensor, size: int, flip: float, colours: v2.Transform) -> tuple[Tensor, Tensor]:
    top, left, height, width = RandomResizedCrop.get_params(image, SCALE, RATIO)
    view = F.resized_crop(image, top, left, height, width, [size, size], interpolation=F.InterpolationMode.BICUBIC)
    flipped = torch.rand(()).item() < flip
    sides = (image.shape[-2], image.shape[-1])
    box = crop_box((top, left, height, width), sides, flipped=flipped)
    return colours(F.horizontal_flip(view) if flipped else view), box


def _colours(size: int) -> tuple[v2.Transform, v2.Transform]:
    """Of the first and of the second view."""
    jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8)
    blur = v2.GaussianBlur(max(size // 20, 1) * 2 + 1, (0.1, 2.0))
    first = v2.Compose([jitter, v2.RandomGrayscale(0.2), blur])
    second = v2.Compose([jitter, v2.RandomGrayscale(0.2), v2.RandomApply([blur], 0.1), v2.RandomSolarize(128, 0.2)])
    return first, second
