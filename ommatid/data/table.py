"""A CSV of paths and labels."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from ommatid.data.errors import DataError, Skipped
from ommatid.data.record import TRAIN_NAMES, VAL_NAMES, Listing, Record, chosen_splits

COLUMNS = ("path", "label")


def list_table(table: Path) -> Listing:
    """List the images that a CSV names in its columns path, label and, optionally, split.

    Paths are relative to the CSV. Rows without a path or a label, and paths named before, are skipped with their line.
    Raises DataError for a file that is no such CSV, or a split that is neither train nor validation.
    """
    rows = _rows(table)
    splits = _splits(rows, table)
    listing = Listing([])
    names: set[str] = set()
    for line, row in rows:
        name = os.path.normpath(row["path"]) if row["path"] else f"line {line}"
        split = splits.get(row["split"], "unused") if splits else None
        if not row["path"] or not row["label"]:
            listing.skipped.append(Skipped(name, f"line {line} lacks a {'label' if row['path'] else 'path'}"))
        elif name in names:
            listing.skipped.append(Skipped(name, f"line {line} names this path again"))
        elif split != "unused":
            names.add(name)
            listing.records.append(Record(Path(name).as_posix(), row["label"], split, table.parent / name))
    if not listing.records:
        raise DataError(f"{table} names no image; add rows of path,label below the header")
    return listing


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, {"path", "label", "split"}) of every row, stripped; a missing split column reads as empty."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip().lower() for name in next(reader, [])]
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                found = ", ".join(header) or "nothing"
                raise DataError(
                    f"{table} lacks the column {' and '.join(missing)}; its first line must be path,label[,split] "
                    f"separated by commas, and reads: {found}"
                )
            places = {name: header.index(name) for name in (*COLUMNS, "split") if name in header}
            return [
                (reader.line_num, {"split": ""} | {name: _cell(row, place) for name, place in places.items()})
                for row in reader
                if any(row)
            ]
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} is not a CSV in UTF-8 ({error}); save it as one") from error


def _cell(row: list[str], place: int) -> str:
    return row[place].strip() if place < len(row) else ""


def _splits(rows: list[tuple[int, dict[str, str]]], table: Path) -> dict[str, str]:
    """{the word in the split column: "train" | "val"}; empty when no row has one or all are for training."""
    found = {row["split"] for _, row in rows}
    if found <= {""}:
        return {}
    for line, row in rows:
        if row["split"] not in TRAIN_NAMES + VAL_NAMES:
            allowed = ", ".join(TRAIN_NAMES + VAL_NAMES)
            raise DataError(f"{table} line {line}: split is {row['split']!r}; allowed in every row: {allowed}")
    splits = chosen_splits(found, str(table))
    return splits if len(splits) == 2 else {}
