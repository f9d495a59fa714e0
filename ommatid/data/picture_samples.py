"""Pictures and what they look like degraded, by index: what a restoration network is trained and judged on."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from ommatid.data.decode import image_size
from ommatid.data.degrade import Degradation
from ommatid.data.errors import DataError, Skipped, UnreadableImageError
from ommatid.data.patches import Pair, as_tensor, degraded_patch, middle, pair_patch
from ommatid.data.read import read_pixels
from ommatid.data.record import Record, Source
from ommatid.data.tolerant import Tolerant


class PictureSamples(Dataset[Pair]):
    """A data set whose item is (degraded (3, h, w), clean (3, scale h, scale w)), float, 0 to 1: a whole picture.

    A picture counts `crops` times, index and index + number of pictures being the same one: an epoch of patches has as
    many of each. `paths` are the pictures' names inside the data. A file that turns out to be unreadable only now is
    added to `skipped`, and the next readable picture takes its place.

    degradation: what is done to `records`; None where they are pairs, `scale` times as large as before restoration.
    """

    def __init__(
        self,
        records: Sequence[Record],
        degradation: Degradation | None,
        scale: int,
        skipped: list[Skipped],
        *,
        crops: int = 1,
    ) -> None:
        self.paths = [record.name for record in records]
        self.degradation = degradation
        self.scale = scale
        self.skipped = skipped
        self.crops = crops
        self._records = list(records)
        self._readable = Tolerant(self.paths, self._read, skipped)

    def __len__(self) -> int:
        return len(self.paths) * self.crops

    def __getitem__(self, index: int) -> Pair:
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        return self.whole(index)

    @property
    def in_memory(self) -> bool:
        """Whether every picture is decoded already, so that processes reading ahead would gain nothing."""
        return all(isinstance(record.source, np.ndarray) for record in self._records)

    def leave_out_smaller(self, side: int) -> None:
        """Adds to `skipped` each picture that has no patch of `side` degraded pixels. Raises DataError if none has."""
        least = side * self.scale
        small = 0
        for place, record in enumerate(self._records):
            try:
                if min(stored_size(record.source)) < least:
                    small += 1
                    self._readable.leave_out(place, f"smaller than a patch of {least} x {least} pixels")
            except UnreadableImageError as reason:
                self._readable.leave_out(place, str(reason))
        if small == len(self._records):
            raise DataError(f"no picture has {least} pixels along both sides, for patches of {side}; make them smaller")

    def patch(self, index: int, side: int, generator: torch.Generator) -> Pair:
        """A random patch of `side` degraded pixels, flipped and turned, with a degradation of its own."""
        _, (degraded, clean) = self._readable.at(index % len(self.paths))
        if degraded is not None:
            return pair_patch(degraded, clean, side, generator)
        assert self.degradation is not None
        return degraded_patch(clean, self.degradation, side, generator)

    def whole(self, index: int, most: int | None = None) -> Pair:
        """A picture, or its middle where it has more than `most` clean pixels along a side; always degraded alike.

        What is left over of its sides is cut off where the degraded one has fewer pixels.
        """
        place, (degraded, clean) = self._readable.at(index % len(self.paths))
        part = as_tensor(middle(clean, most, self.scale))
        if degraded is not None:
            return as_tensor(middle(degraded, None if most is None else most // self.scale, 1)), part
        assert self.degradation is not None
        generator = torch.Generator().manual_seed(zlib.crc32(self.paths[place].encode()))
        return self.degradation(part, generator), part

    def _read(self, place: int) -> tuple[np.ndarray | None, np.ndarray]:
        record = self._records[place]
        clean = read_pixels(record.source)
        if record.degraded is None:
            return None, clean
        degraded = read_pixels(record.degraded)
        if clean.shape[:2] != tuple(self.scale * side for side in degraded.shape[:2]):
            raise UnreadableImageError("the two pictures of the pair are turned differently")
        return degraded, clean


def stored_size(source: Source) -> tuple[int, int]:
    """Width and height in pixels of an image in memory or in a file, from its header. Raises UnreadableImageError."""
    if isinstance(source, np.ndarray):
        return source.shape[1], source.shape[0]
    assert not callable(source)
    return image_size(source)
