"""An image folder: a folder per class, under train/ and val/ or on its own."""

from __future__ import annotations

import os
from pathlib import Path

from ommatid.data.errors import DataError, Skipped
from ommatid.data.record import TRAIN_NAMES, VAL_NAMES, Listing, Record, chosen_splits

JPEG_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif"}
OTHER_SUFFIXES = {".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".tga", ".avif", ".jp2"}
SUFFIXES = JPEG_SUFFIXES | OTHER_SUFFIXES


def list_folder(root: Path) -> Listing:
    """List the images of a folder with a sub-folder per class, its own train/ and val/ split kept if it has one.

    Hidden files and folders, and files that are no images by their suffix, are ignored. Links are followed once.
    Raises DataError when there is no class folder or no image.
    """
    listing = Listing([])
    for folder, split in split_folders(root):
        _list_classes(root, folder, split, listing)
    if not listing.records:
        raise DataError(f"{root} holds no folder of images per class; put each class's images in a folder of its name")
    return listing


def split_folders(root: Path) -> list[tuple[Path, str | None]]:
    """(folder, "train" or "val") for each part that the folder comes in, or the folder itself and None."""
    children = {child.name for child in subfolders(root)}
    if not any(name.lower() in TRAIN_NAMES for name in children):
        return [(root, None)]
    splits = chosen_splits({name for name in children if name.lower() in TRAIN_NAMES + VAL_NAMES}, str(root))
    # A train/ alone is split as a folder without splits is.
    return [(root / name, split if len(splits) == 2 else None) for name, split in splits.items()]


def image_files(root: Path, skipped: list[Skipped]) -> list[Path]:
    """Every file below `root` with an image's suffix, sorted; folders that cannot be listed are added to `skipped`."""
    files: list[Path] = []
    # Above the root lie the other classes, which a link upwards must not bring in.
    visited = {str(parent) for parent in Path(os.path.realpath(root)).parents}

    def note(error: OSError) -> None:
        skipped.append(Skipped(str(error.filename), f"folder cannot be listed: {error.strerror}"))

    for folder, names, leaves in os.walk(root, onerror=note, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link back to where the walk has been
            names.clear()
            continue
        visited.add(real)
        names[:] = sorted(name for name in names if not _hidden(name))
        files += [Path(folder, leaf) for leaf in leaves if not _hidden(leaf) and Path(leaf).suffix.lower() in SUFFIXES]
    return sorted(files)


def _list_classes(root: Path, folder: Path, split: str | None, listing: Listing) -> None:
    for class_folder in subfolders(folder):
        files = image_files(class_folder, listing.skipped)
        if not files:
            listing.skipped.append(Skipped(class_folder.relative_to(root).as_posix() + "/", "a folder without images"))
        for path in files:
            listing.records.append(Record(path.relative_to(root).as_posix(), class_folder.name, split, path))


def subfolders(root: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones. Raises DataError."""
    try:
        return sorted(child for child in root.iterdir() if child.is_dir() and not _hidden(child.name))
    except OSError as error:
        raise DataError(f"{root} cannot be listed: {error.strerror}; check the path and its permissions") from error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
