"""Labelled images by index: what a training reads from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.data.errors import Skipped
from ommatid.data.read import read_pixels
from ommatid.data.record import Record
from ommatid.data.tolerant import Tolerant


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
        self._readable = Tolerant(self.paths, self._pixels, skipped)

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
        place, pixels = self._readable.at(index)
        return pixels, self.labels[place]

    def _pixels(self, place: int) -> np.ndarray:
        return read_pixels(self._sources[place])
