"""From an annotated picture to what a model is trained or judged on; boxes and masks follow the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ommatid.data.augment import MEAN, STD
from ommatid.data.dense.masks import mask_boxes
from ommatid.data.dense.samples import Truth
from ommatid.data.dense.scene import IGNORED
from ommatid.models.config import require

View = Literal["whole", "window"]
SceneTransform = Callable[[Tensor, Truth], tuple[Tensor, Truth]]

LEAST_SIDE = 2.0
"""In pixels: of things that the edge of a training image cuts off, less than this is left out."""


@dataclass(frozen=True)
class SceneAugmentation:
    """What is done at random to annotated pictures; image, masks and boxes alike.

    view: "whole" fits the picture into the training's size; "window" keeps its resolution and takes a part of that
        size, for pictures much larger than what can be trained on; they are judged by sliding the window.
    zoom: least and most that a picture is then enlarged by, before a part of the training's size is taken.
    flip, vertical_flip: probabilities of mirror images.
    colour: strength of random changes of brightness, contrast and saturation.
    Raises ValueError naming the field that is out of range.
    """

    view: View = "whole"
    zoom: tuple[float, float] = (0.75, 1.5)
    flip: float = 0.5
    vertical_flip: float = 0.0
    colour: float = 0.3

    def __post_init__(self) -> None:
        low, high = self.zoom
        require(self.view in get_args(View), "scenes view", self.view, " or ".join(get_args(View)))
        require(0.05 <= low <= high <= 20, "scenes zoom", self.zoom, "two factors, 0.05 <= least <= most <= 20")
        for name in ("flip", "vertical_flip"):
            require(0 <= getattr(self, name) <= 1, f"scenes {name}", getattr(self, name), "a probability, 0 to 1")
        require(0 <= self.colour <= 1, "scenes colour", self.colour, "0 to 1")


def canvas(sizes: Sequence[tuple[int, int]], size: int) -> tuple[int, int]:
    """Height and width of training images whose longer side is `size`: of the median shape of the pictures."""
    ratios = sorted(width / height for width, height in sizes)
    ratio = ratios[len(ratios) // 2]
    return (max(1, round(size / ratio)), size) if ratio >= 1 else (size, max(1, round(size * ratio)))


def scene_transform(augmentation: SceneAugmentation, sides: tuple[int, int]) -> SceneTransform:
    """Random, to images of the height and width `sides`, uint8. Randomness is PyTorch's global generator's.

    Where a picture does not fill the image, it is black, and `IGNORED` in masks, of no segment. Things that are cut off
    are left out.
    """
    colour = augmentation.colour
    steps: list[Any] = [
        _Zoom(sides if augmentation.view == "whole" else None, augmentation.zoom),
        v2.RandomCrop(sides, pad_if_needed=True, fill={tv_tensors.Mask: IGNORED, "others": 0}),
        v2.RandomHorizontalFlip(augmentation.flip),
        v2.RandomVerticalFlip(augmentation.vertical_flip),
        v2.ColorJitter(colour, colour, colour) if colour else v2.Identity(),
    ]
    change = v2.Compose(steps)

    def transformed(image: Tensor, truth: Truth) -> tuple[Tensor, Truth]:
        if "masks" in truth:  # as numbers, so that what is padded can be told from what is on
            truth = truth | {"masks": tv_tensors.Mask(truth["masks"].to(torch.uint8))}
        if "segments" in truth:  # beyond what is padded with
            truth = truth | {"segments": tv_tensors.Mask(truth["segments"] + (IGNORED + 1))}
        image, truth = change(image, truth)
        if "segments" in truth:
            truth = truth | {"segments": (truth["segments"].as_subclass(Tensor) - (IGNORED + 1)).clamp_min(0)}
        return image, _inside(truth) if "boxes" in truth else truth

    return transformed


def unchanged(image: Tensor, truth: Truth) -> tuple[Tensor, Truth]:
    """The transform of pictures that are judged as they are."""
    return image, truth


def normalized(images: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) -> float, as models take them."""
    return F.normalize(F.to_dtype(images.as_subclass(Tensor), torch.float32, scale=True), list(MEAN), list(STD))


class _Zoom(v2.Transform):
    """Fits into `sides` (where given), and enlarges by a factor that is drawn so that half is as likely as double."""

    def __init__(self, sides: tuple[int, int] | None, zoom: tuple[float, float]) -> None:
        super().__init__()
        self.sides = sides
        self.zoom = zoom

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        low, high = (math.log(factor) for factor in self.zoom)
        factor = math.exp(low + (high - low) * torch.rand(()).item())
        if self.sides is not None:
            height, width = _fit((height, width), self.sides)
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.resize, inpt, size=params["size"], antialias=True)


def _fit(shape: Sequence[int], sides: tuple[int, int]) -> tuple[int, int]:
    factor = min(sides[0] / shape[0], sides[1] / shape[1])
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _inside(truth: Truth) -> Truth:
    """Without the things of which nothing is left in the image; boxes go around what is left, where masks tell."""
    boxes = F.clamp_bounding_boxes(truth["boxes"]).as_subclass(Tensor)
    if "masks" in truth:
        masks = truth["masks"].as_subclass(Tensor) == 1
        left = masks.flatten(1).any(1)
        boxes[left] = mask_boxes(masks[left])
        truth = truth | {"masks": masks}
    left = (boxes[:, 2:] - boxes[:, :2]).amin(-1) >= LEAST_SIDE
    if "masks" in truth:
        left &= truth["masks"].flatten(1).any(1)
    return {name: value[left] for name, value in (truth | {"boxes": boxes}).items()}
