"""A folder of pictures and masks: images/ and masks/ with the same names, as they are or below train/ and val/."""

from __future__ import annotations

from pathlib import Path

from ommatid.data.dense.scene import MOST_CLASSES, Scene, SceneListing
from ommatid.data.errors import DataError, Skipped
from ommatid.data.folder import image_files, split_folders
from ommatid.data.record import Record

IMAGES, MASKS, CLASSES = "images", "masks", "classes.txt"


def is_mask_folder(root: Path) -> bool:
    """Whether it holds images/ and masks/, or the parts below it do."""
    return any(_holds_masks(folder) for folder in (root, *(child for child in root.iterdir() if child.is_dir())))


def list_mask_folder(root: Path) -> SceneListing:
    """Pictures and their masks. classes.txt, beside or above them, has a line NAME, or NAME RED GREEN BLUE, per class.

    Raises DataError where there is no pair, or classes.txt is none.
    """
    classes, colours = _classes(root)
    listing = SceneListing([], classes, colours=colours)
    folders = [(root, None)] if _holds_masks(root) else split_folders(root)
    for folder, split in folders:
        if not _holds_masks(folder):
            raise DataError(f"{folder} holds no {IMAGES}/ and {MASKS}/; give it both")
        _list_pairs(root, folder, split, listing)
    if not listing.scenes:
        raise DataError(f"{root} holds no picture with a mask: put both below {IMAGES}/ and {MASKS}/, with equal names")
    return listing


def _holds_masks(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and (folder / MASKS).is_dir()


def _list_pairs(root: Path, folder: Path, split: str | None, listing: SceneListing) -> None:
    images = _by_stem(folder / IMAGES, listing.skipped)
    masks = _by_stem(folder / MASKS, listing.skipped)
    for stem, path in images.items():
        name = path.relative_to(root).as_posix()
        if stem in masks:
            listing.scenes.append(Scene(Record(name, "", split, path), mask=masks[stem]))
        else:
            listing.skipped.append(Skipped(name, f"no mask of its name in {MASKS}/"))
    for stem, path in masks.items():
        if stem not in images:
            listing.skipped.append(Skipped(path.relative_to(root).as_posix(), f"no picture of its name in {IMAGES}/"))


def _by_stem(folder: Path, skipped: list[Skipped]) -> dict[str, Path]:
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in image_files(folder, skipped)}


def _classes(root: Path) -> tuple[tuple[str, ...] | None, tuple[tuple[int, int, int], ...] | None]:
    path = next((folder / CLASSES for folder in (root, root.parent) if (folder / CLASSES).is_file()), None)
    if path is None:
        return None, None
    try:
        lines = [line.replace(",", " ").split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from None
    rows = [words for words in lines if words]
    coloured = [len(words) > 3 and all(word.isdecimal() and int(word) < 256 for word in words[-3:]) for words in rows]
    names = [" ".join(words[:-3] if colour else words) for words, colour in zip(rows, coloured, strict=True)]
    if any(coloured) and not all(coloured):
        raise DataError(f"{path}: {names[coloured.index(False)]!r} has no colour, others have: NAME RED GREEN BLUE")
    if not 1 < len(set(names)) == len(names) <= MOST_CLASSES:
        raise DataError(f"{path} has to name two to {MOST_CLASSES} different classes, one in each line")
    colours = tuple((int(words[-3]), int(words[-2]), int(words[-1])) for words in rows) if any(coloured) else None
    return tuple(names), colours
