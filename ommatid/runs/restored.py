"""A folder of restored pictures: which they are, what each was made from and how.

restored.jsonl      one line of JSON per picture, added before the picture takes its place
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RECORD = "restored.jsonl"
Stamp = tuple[int, int]


def stamp(path: Path) -> Stamp:
    """Size in bytes and time of the last change in nanoseconds: both the same, the file is taken for unchanged."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Restored:
    """One restored picture.

    Attributes:
        output: its path inside the folder, with slashes.
        source: the picture that it was made from.
        source_stamp, output_stamp: what `stamp` said of both files.
        settings: all that decides what the answer is.
        before, after: width and height in pixels.
        seconds: how long it took.
        notes: what could not be kept as it was.
    """

    output: str
    source: str
    source_stamp: Stamp
    output_stamp: Stamp
    settings: dict[str, Any]
    before: tuple[int, int]
    after: tuple[int, int]
    seconds: float
    notes: tuple[str, ...] = ()

    def answers(self, source: Path, settings: dict[str, Any]) -> bool:
        """Whether restoring `source` with these settings would give the same again."""
        return (self.source, self.source_stamp, self.settings) == (str(source.resolve()), stamp(source), settings)


class RestoredFolder:
    """What a folder holds already; `add` tells it of one more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        record = path / RECORD
        text = record.read_text(encoding="utf-8", errors="replace") if record.is_file() else ""
        self.cut_short = bool(text) and not text.endswith("\n")
        # Of one name there are several where a picture was restored again, with other settings.
        self.entries: dict[str, list[Restored]] = {}
        for entry in filter(None, map(_entry, text.splitlines())):
            self.entries.setdefault(entry.output, []).append(entry)

    def find(self, output: str) -> Restored | None:
        """How the file of this name was made; None where there is none, or it is not as `restore` left it."""
        path = self.path / output
        found = stamp(path) if path.is_file() else None
        return next((entry for entry in self.entries.get(output, []) if entry.output_stamp == found), None)

    def add(self, entry: Restored) -> None:
        """Records a picture that is about to take its place: killed in between, the next time finds no such file."""
        self.entries.setdefault(entry.output, []).append(entry)
        with (self.path / RECORD).open("a", encoding="utf-8") as file:
            file.write("\n" * self.cut_short + json.dumps(asdict(entry), ensure_ascii=False) + "\n")
        self.cut_short = False


def _entry(line: str) -> Restored | None:
    """None for a line that a kill cut short."""
    try:
        values: dict[str, Any] = json.loads(line)
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return Restored(**values)
    except (ValueError, TypeError, AttributeError):
        return None
