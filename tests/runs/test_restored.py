"""What a folder of restored pictures remembers, whenever it was cut short."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ommatid.runs.restored import RECORD, Restored, RestoredFolder, stamp

SETTINGS = {"weights": "abc", "tile": 256, "ensemble": False}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "x.png"
    path.write_bytes(b"before")
    return path


def add(folder: Path, source: Path, content: bytes = b"after") -> Restored:
    """A picture and its record."""
    folder.mkdir(exist_ok=True)
    output = folder / source.name
    output.write_bytes(content)
    entry = Restored(
        output=source.name,
        source=str(source.resolve()),
        source_stamp=stamp(source),
        output_stamp=stamp(output),
        settings=SETTINGS,
        before=(3, 4),
        after=(6, 8),
        seconds=0.5,
        notes=("CMYK became RGB",),
    )
    RestoredFolder(folder).add(entry)
    return entry


def test_what_was_added_is_read_back(tmp_path: Path, source: Path) -> None:
    assert RestoredFolder(tmp_path / "out").find("x.png") is None
    entry = add(tmp_path / "out", source)
    found = RestoredFolder(tmp_path / "out").find("x.png")
    assert found == entry
    assert found.answers(source, SETTINGS)


def test_other_settings_and_a_changed_source_are_other_answers(tmp_path: Path, source: Path) -> None:
    entry = add(tmp_path / "out", source)
    assert not entry.answers(source, SETTINGS | {"tile": 64})
    os.utime(source, ns=(0, 0))
    assert not entry.answers(source, SETTINGS)


def test_a_file_that_was_changed_or_removed_is_not_found(tmp_path: Path, source: Path) -> None:
    add(tmp_path / "out", source)
    (tmp_path / "out" / "x.png").write_bytes(b"somebody's own")
    assert RestoredFolder(tmp_path / "out").find("x.png") is None
    (tmp_path / "out" / "x.png").unlink()
    assert RestoredFolder(tmp_path / "out").find("x.png") is None


def test_killed_before_an_answer_took_its_place_the_older_one_is_still_known(tmp_path: Path, source: Path) -> None:
    older = add(tmp_path / "out", source)
    newer = Restored(**(vars(older) | {"output_stamp": (1, 1), "settings": {}}))
    RestoredFolder(tmp_path / "out").add(newer)
    assert RestoredFolder(tmp_path / "out").find("x.png") == older


@pytest.mark.parametrize("rest", ['{"output": "y.p', '{"output": "y.png"}\n', "[]\n", "\n\n", "\xff"])
def test_a_line_that_was_cut_short_harms_no_other(tmp_path: Path, source: Path, rest: str) -> None:
    entry = add(tmp_path / "out", source)
    with (tmp_path / "out" / RECORD).open("a", encoding="latin-1") as file:
        file.write(rest)
    other = source.with_name("z.png")
    other.write_bytes(b"z")
    added = add(tmp_path / "out", other)
    folder = RestoredFolder(tmp_path / "out")
    assert (folder.find("x.png"), folder.find("z.png")) == (entry, added)
