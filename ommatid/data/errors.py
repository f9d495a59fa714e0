"""What can go wrong with data: an error that stops, and a file that is passed over and counted."""

from __future__ import annotations

from typing import NamedTuple


class DataError(ValueError):
    """The data cannot be used as it is. The message is one line: what is wrong, where, and what to do."""


class UnreadableImageError(Exception):
    """One image cannot be read. The message is the reason, without the file's name."""


class Skipped(NamedTuple):
    """A file that was passed over, by its name inside the data, and why."""

    path: str
    reason: str
