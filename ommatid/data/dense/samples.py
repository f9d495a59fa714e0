"""Annotated pictures by index: what a training of masks or boxes reads from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ommatid.data.dense.masks import Colours, read_mask, thing_mask
from ommatid.data.dense.scene import BACKGROUND, Scene, Wanted
from ommatid.data.dense.segments import numbered, painted_segments, read_ids
from ommatid.data.errors import Skipped, UnreadableImageError
from ommatid.data.read import read_pixels
from ommatid.data.tolerant import Tolerant

Truth = dict[str, Any]
"""By what is wanted:

masks: `mask` (H, W) uint8. boxes: `boxes` (n, 4), `labels` (n,), `crowd` (n,) bool, `area` (n,). outlines: `masks`
(n, H, W) too. segments: `segments` (H, W) int32, numbers from 1, 0 for none; `labels` and `crowd` of segments 1 to n,
of which some may have no pixel.
"""


class SceneSamples(Dataset[tuple[Tensor, Truth]]):
    """A data set whose item is (image (3, H, W) uint8, what is true of it), as tensors that transforms know.

    `classes` are what labels and pixels of masks index, `sizes` the pictures' widths and heights, `paths` their names
    inside the data. A file that turns out to be unreadable only now is added to `skipped`, and the next takes its
    place. wanted: what comes with the image, as `Truth` says; where a thing has no outline, the box is its mask.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        classes: tuple[str, ...],
        skipped: list[Skipped],
        *,
        wanted: Wanted,
        colours: Colours | None = None,
    ) -> None:
        self.scenes = list(scenes)
        self.classes = classes
        self.paths = [scene.name for scene in scenes]
        self.sizes = [scene.size or (0, 0) for scene in scenes]
        self.skipped = skipped
        self.wanted = wanted
        self.colours = colours
        self._readable = Tolerant(self.paths, self._read, skipped)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Truth]:
        return self._readable.at(index)[1]

    @property
    def in_memory(self) -> bool:
        """Whether every picture is decoded already, so that processes reading ahead would gain nothing."""
        return all(isinstance(scene.record.source, np.ndarray) for scene in self.scenes)

    @property
    def uniform(self) -> bool:
        """Whether all pictures are of one size."""
        return len(set(self.sizes)) == 1

    def _read(self, place: int) -> tuple[Tensor, Truth]:
        scene = self.scenes[place]
        pixels = read_pixels(scene.record.source)
        image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
        if self.wanted == "masks":
            return image, {"mask": tv_tensors.Mask(torch.from_numpy(self._mask(scene, pixels)))}
        if self.wanted == "segments":
            return image, self._segments(scene, *pixels.shape[:2])
        return image, self._things(scene, *pixels.shape[:2])

    def _mask(self, scene: Scene, pixels: np.ndarray) -> np.ndarray:
        assert scene.mask is not None
        if isinstance(scene.mask, np.ndarray):
            return scene.mask
        mask = read_mask(scene.mask, len(self.classes), self.colours)
        if mask.shape != pixels.shape[:2]:
            raise UnreadableImageError("its mask is of another size")
        return mask

    def _segments(self, scene: Scene, height: int, width: int) -> Truth:
        if scene.segments is None:
            things = scene.things or ()
            numbers = painted_segments(things, height, width)
            labels, crowd = [thing.label for thing in things], [thing.crowd for thing in things]
            numbers[numbers == 0] = len(things) + 1
            labels, crowd = [*labels, self.classes.index(BACKGROUND)], [*crowd, False]
        else:
            numbers = self._numbers(scene)
            labels = [segment.label for segment in scene.segments]
            crowd = [segment.crowd for segment in scene.segments]
        if numbers.shape != (height, width):
            raise UnreadableImageError("its segments are of another size")
        return {
            "segments": tv_tensors.Mask(torch.from_numpy(numbers)),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "crowd": torch.tensor(crowd, dtype=torch.bool),
        }

    def _numbers(self, scene: Scene) -> np.ndarray:
        if isinstance(scene.mask, np.ndarray):
            return scene.mask
        assert scene.mask is not None
        return numbered(read_ids(scene.mask), scene.segments or ())

    def _things(self, scene: Scene, height: int, width: int) -> Truth:
        things = scene.things or ()
        boxes = torch.tensor([thing.box for thing in things], dtype=torch.float32).reshape(-1, 4)
        sides = boxes[:, 2:] - boxes[:, :2]
        areas = [side if thing.area is None else thing.area for thing, side in zip(things, sides.prod(1), strict=True)]
        truth: Truth = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.tensor([thing.label for thing in things], dtype=torch.int64),
            "crowd": torch.tensor([thing.crowd for thing in things], dtype=torch.bool),
            "area": torch.tensor(areas, dtype=torch.float32),
        }
        if self.wanted == "outlines":
            masks = [thing_mask(thing, height, width) for thing in things]
            stacked = np.stack(masks) if masks else np.zeros((0, height, width), bool)
            truth["masks"] = tv_tensors.Mask(torch.from_numpy(stacked))
        return truth
