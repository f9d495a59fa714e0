"""A folder of pictures to restore: any pictures, or pairs under input/ and target/."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ommatid.data.errors import DataError, Skipped
from ommatid.data.folder import image_files, split_folders
from ommatid.data.record import Listing, Record

INPUT, TARGET = "input", "target"


def list_pictures(root: Path) -> Listing:
    """All pictures below a folder, or below its train/ and val/; with `degraded`, where it holds pairs.

    A pair has the same path below input/ and target/, its suffix aside. Raises DataError when there is no picture.
    """
    folders = split_folders(root)
    paired = [_holds_pairs(folder) for folder, _ in folders]
    if any(paired) and not all(paired):
        lacking = next(folder for (folder, _), pairs in zip(folders, paired, strict=True) if not pairs)
        raise DataError(f"{lacking} holds no {INPUT}/ and {TARGET}/ as the folder beside it does; give it both")
    listing = Listing([])
    for folder, split in folders:
        (_list_pairs if all(paired) else _list_folder)(root, folder, split, listing)
    if not listing.records:
        form = f"pictures below {INPUT}/ and {TARGET}/ with the same names" if all(paired) else "pictures in it"
        raise DataError(f"{root} holds nothing to train on; put {form}")
    return listing


def list_unpaired(root: Path) -> Listing:
    """All pictures below a folder, or below its train/ and val/, whatever folders they lie in. Raises DataError."""
    listing = Listing([])
    for folder, split in split_folders(root):
        _list_folder(root, folder, split, listing)
    if not listing.records:
        raise DataError(f"{root} holds no picture; put some in it")
    return listing


def _holds_pairs(folder: Path) -> bool:
    return (folder / INPUT).is_dir() and (folder / TARGET).is_dir()


def _list_folder(root: Path, folder: Path, split: str | None, listing: Listing) -> None:
    for path in image_files(folder, listing.skipped):
        listing.records.append(Record(path.relative_to(root).as_posix(), "", split, path))


def _list_pairs(root: Path, folder: Path, split: str | None, listing: Listing) -> None:
    inputs, targets = Listing([]), Listing([])
    for part, name in ((inputs, INPUT), (targets, TARGET)):
        _list_folder(root, folder / name, split, part)
        listing.skipped.extend(part.skipped)
    degraded = {_stem(record, folder / INPUT): record for record in inputs.records}
    for record in targets.records:
        twin = degraded.pop(_stem(record, folder / TARGET), None)
        if twin is None:
            listing.skipped.append(Skipped(record.name, f"no picture of this name in {INPUT}/"))
        else:
            listing.records.append(replace(record, degraded=twin.source))
    listing.skipped.extend(Skipped(lone.name, f"no picture of this name in {TARGET}/") for lone in degraded.values())


def _stem(record: Record, folder: Path) -> Path:
    assert isinstance(record.source, Path)
    return record.source.relative_to(folder).with_suffix("")
