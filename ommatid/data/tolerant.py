"""Reading by index where some of what is read turns out to be damaged only then."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ommatid.data.errors import DataError, Skipped, UnreadableImageError

Item = TypeVar("Item")


class Tolerant(Generic[Item]):
    """`read(place)` for each of `names`, or for the next that can be read; what cannot is added to `skipped`, once.

    read: raises UnreadableImageError.
    """

    def __init__(self, names: Sequence[str], read: Callable[[int], Item], skipped: list[Skipped]) -> None:
        self.names = names
        self.skipped = skipped
        self._read = read
        self._left_out: set[int] = set()

    def at(self, index: int) -> tuple[int, Item]:
        """The place read in the end, and what is there. Raises IndexError, and DataError if nothing can be read."""
        count = len(self.names)
        if not -count <= index < count:
            raise IndexError(f"sample {index} of {count}")
        for offset in range(count):
            place = (index + offset) % count
            if place in self._left_out:
                continue
            try:
                return place, self._read(place)
            except UnreadableImageError as reason:
                self.leave_out(place, str(reason))
        raise DataError(f"none of the {count} images can be read any more; is the disk still there?")

    def leave_out(self, place: int, reason: str) -> None:
        """The next takes its place from now on."""
        if place in self._left_out:
            return
        self._left_out.add(place)
        self.skipped.append(Skipped(self.names[place], reason))
        # A loader's worker keeps its own copy of `skipped`; the warning is what reaches the user from there.
        warnings.warn(f"{self.names[place]} is skipped: {reason}", stacklevel=4)
