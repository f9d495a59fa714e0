"""Images without labels, to predict on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from ommatid.data.decode import image_size, read_image
from ommatid.data.errors import DataError, Skipped, UnreadableImageError
from ommatid.data.folder import image_files


class Images:
    """An iterable of (path, PIL RGB image). Files that cannot be read are passed over and added to `skipped`."""

    def __init__(self, files: Sequence[Path], skipped: list[Skipped]) -> None:
        self.files = list(files)
        self.skipped = skipped

    def __len__(self) -> int:
        """Files whose header is that of an image; decoding may yet pass over some."""
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[Path, Image.Image]]:
        readable = 0
        for path in self.files:
            try:
                image = read_image(path)
            except UnreadableImageError as reason:
                self._note(Skipped(str(path), str(reason)))
                continue
            readable += 1
            yield path, image
        if not readable:
            raise DataError(_nothing(self.skipped))

    def _note(self, skip: Skipped) -> None:
        if skip not in self.skipped:
            self.skipped.append(skip)


def open_images(paths: Sequence[str | Path]) -> Images:
    """Open files, and folders with all below them, checking every header. Raises DataError if none is an image."""
    if not paths:
        raise DataError("no image is named; give image files or folders")
    skipped: list[Skipped] = []
    listed = [
        file for path in map(Path, paths) for file in (image_files(path, skipped) if os.path.isdir(path) else [path])
    ]
    files = []
    for path in dict.fromkeys(listed):
        try:
            image_size(path)
        except UnreadableImageError as reason:
            skipped.append(Skipped(str(path), str(reason)))
        else:
            files.append(path)
    if not files:
        raise DataError(
            _nothing(skipped) if skipped else f"{paths[0]} holds no image file; give image files or folders"
        )
    return Images(files, skipped)


def _nothing(skipped: list[Skipped]) -> str:
    path, reason = skipped[0]
    return f"none of the {len(skipped)} files can be read; the first is {path}: {reason}"
