"""From an image to the tensor that a model takes, at random for training and always the same for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's channel statistics, which published checkpoints expect."""

Crop = Literal["resized", "padded", "centre"]
Step = Callable[[Tensor], Tensor]
BatchMix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Augmentation:
    """What is done at random to training images; every strength at 0 is off.

    crop: "resized" takes a random part, `crop_scale` of the area, to full size (Szegedy et al., arXiv 1409.4842);
        "padded" adds `crop_padding` pixels around and takes a random full-size part, for small images;
        "centre" takes the centre square as evaluation does.
    flip: probability of a mirror image.
    rand_augment: magnitude 0..30 of `rand_augment_ops` random operations (arXiv 1909.13719).
    erasing: probability of a rectangle painted over (arXiv 1708.04896).
    mixup, cutmix: alpha of the Beta distribution (arXiv 1710.09412, 1905.04899); with both on, each batch takes one.
    Raises ValueError naming the field that is out of range.
    """

    crop: Crop = "resized"
    crop_scale: tuple[float, float] = (0.35, 1.0)
    crop_padding: int = 4
    flip: float = 0.5
    rand_augment: int = 0
    rand_augment_ops: int = 2
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        _require(self.crop in get_args(Crop), "crop", self.crop, " or ".join(get_args(Crop)))
        _require(0 < low <= high <= 1, "crop_scale", self.crop_scale, "two areas, 0 < low <= high <= 1")
        _require(self.crop_padding >= 0, "crop_padding", self.crop_padding, "0 or more pixels")
        _require(0 <= self.flip <= 1, "flip", self.flip, "a probability, 0 to 1")
        _require(0 <= self.rand_augment <= 30, "rand_augment", self.rand_augment, "a magnitude, 0 to 30")
        _require(self.rand_augment_ops >= 1, "rand_augment_ops", self.rand_augment_ops, "1 or more")
        _require(0 <= self.erasing <= 1, "erasing", self.erasing, "a probability, 0 to 1")
        _require(self.mixup >= 0, "mixup", self.mixup, "0 or more")
        _require(self.cutmix >= 0, "cutmix", self.cutmix, "0 or more")


@dataclass(frozen=True)
class ImageTransform:
    """PIL RGB image to normalised float (3, size, size), in two steps that a loader may run apart.

    `pixels` is per image, uint8 to uint8 (3, size, size), and holds all randomness; `normalize` takes one image or a
    batch of them, uint8 to float, and costs far less on a batch.
    """

    pixels: Callable[[Image.Image | Tensor], Tensor]
    normalize: Callable[[Tensor], Tensor]

    def __call__(self, image: Image.Image) -> Tensor:
        return self.normalize(self.pixels(image))


def train_transform(aug: Augmentation, size: int) -> ImageTransform:
    """The random transform of a training image to (3, size, size). Randomness is PyTorch's global generator's."""
    steps: list[Step] = [_to_tensor]
    if aug.crop == "resized":
        steps.append(v2.RandomResizedCrop(size, scale=aug.crop_scale, interpolation=InterpolationMode.BICUBIC))
    else:
        steps.append(partial(_centre_square, size=size))
    if aug.crop == "padded" and aug.crop_padding:
        steps.append(partial(_shift, most=aug.crop_padding))
    if aug.flip:
        steps.append(partial(_sometimes, F.horizontal_flip, aug.flip))
    if aug.rand_augment:
        steps.append(v2.RandAugment(aug.rand_augment_ops, aug.rand_augment))
    if aug.erasing:
        # Painted with the mean colour, which normalisation takes to zero.
        paint = v2.RandomErasing(p=1.0, value=[round(255 * mean) for mean in MEAN])
        steps.append(partial(_sometimes, paint, aug.erasing))
    return ImageTransform(v2.Compose(steps), _normalize())


def eval_transform(size: int) -> ImageTransform:
    """The centre square of an image, resized to (3, size, size); an image of that size is not resampled."""
    return ImageTransform(v2.Compose([_to_tensor, partial(_centre_square, size=size)]), _normalize())


def batch_mix(aug: Augmentation, num_classes: int) -> BatchMix | None:
    """MixUp or CutMix, chosen at random for each batch where both are on; None where neither is.

    Takes float images (B, 3, H, W) and class indices (B,), gives the images mixed and targets (B, num_classes).
    """
    mixes: list[Callable] = []
    if aug.mixup:
        mixes.append(v2.MixUp(alpha=aug.mixup, num_classes=num_classes))
    if aug.cutmix:
        mixes.append(v2.CutMix(alpha=aug.cutmix, num_classes=num_classes))
    return v2.RandomChoice(mixes) if mixes else None


# These steps are functions where torchvision has classes: on small images a class's own bookkeeping costs several
# times the work itself, and decides how many images per second a core delivers.


def _to_tensor(image: Image.Image | Tensor) -> Tensor:
    return image if isinstance(image, Tensor) else F.pil_to_tensor(image)


def _centre_square(image: Tensor, size: int) -> Tensor:
    height, width = image.shape[-2:]
    if height == width == size:
        return image
    # Cropped before it is resized: the view is the same as the other way round, and a 1 x 5000 strip stays small.
    square = F.center_crop(image, [min(height, width)])
    return F.resize(square, [size, size], interpolation=InterpolationMode.BICUBIC)


def _shift(image: Tensor, most: int) -> Tensor:
    """Move the image by up to `most` pixels each way, black coming in: padding and a random crop in one."""
    top, left = torch.randint(-most, most + 1, (2,)).tolist()
    return F.crop(image, top, left, *image.shape[-2:])


def _sometimes(step: Step, probability: float, image: Tensor) -> Tensor:
    return step(image) if torch.rand(()).item() < probability else image


def _normalize() -> v2.Compose:
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"augmentation {field} is {value!r}; allowed: {allowed}")
