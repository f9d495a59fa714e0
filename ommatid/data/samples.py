"""Labelled images by index: what a training reads from."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.data.errors import DataError, Skipped, UnreadableImageError
from ommatid.data.read import read_pixels
from ommatid.data.record import Record


class Samples(Dataset[tuple[Image.Image, int]]):
    """A data set whose item is (PIL RGB image, class index).

    `classes` are the names that labels index; `labels` and `paths` (names inside the data) have one entry per sample.
    A file that turns out to be unreadable only now is added to `skipped`, and the next readable sample takes its place.
    """

    def __init__(self, records: Sequence[Record], classes: Sequence[str], skipped: list[Skipped]) -> None:
        index = {name: label for label, name in enumerate(classes)}
        self.classes = tuple(classes)
        self.labels = [index[record.label] for record in records]
        self.paths = [record.name for record in records]
        self.skipped = skipped
        self._sources = [record.source for record in records]
        self._broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        pixels, label = self._read(index)
        return Image.fromarray(pixels), label

    @property
    def in_memory(self) -> bool:
        """Whether every image is decoded already, so that processes reading ahead would gain nothing."""
        return all(isinstance(source, np.ndarray) for source in self._sources)

    def tensor(self, index: int) -> tuple[Tensor, int]:
        """The image as a (3, H, W) uint8 view of what is in memory (do not write to it), and its class index."""
        pixels, label = self._read(index)
        return torch.from_numpy(pixels).permute(2, 0, 1), label

    def counts(self) -> dict[str, int]:
        """Number of samples of every class, in the order of `classes`."""
        found = Counter(self.labels)
        return {name: found[label] for label, name in enumerate(self.classes)}

    def _read(self, index: int) -> tuple[np.ndarray, int]:
        """(H, W, 3) uint8 and label of this sample, or of the next that can be read. Raises DataError if none can."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        for offset in range(len(self)):
            place = (index + offset) % len(self)
            if place in self._broken:
                continue
            try:
                return read_pixels(self._sources[place]), self.labels[place]
            except UnreadableImageError as reason:
                self._note(place, str(reason))
        raise DataError(f"none of the {len(self)} images can be read any more; is the disk still there?")

    def _note(self, place: int, reason: str) -> None:
        self._broken.add(place)
        self.skipped.append(Skipped(self.paths[place], reason))
        # A loader's worker keeps its own copy of `skipped`; the warning is what reaches the user from there.
        warnings.warn(f"{self.paths[place]} is skipped: {reason}", stacklevel=4)
