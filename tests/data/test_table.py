from __future__ import annotations

from pathlib import Path

import pytest

from ommatid.data import DataError
from ommatid.data.table import list_table


def written(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    table = tmp_path / "labels.csv"
    table.write_text(text, encoding=encoding)
    return table


def test_paths_are_relative_to_the_table(tmp_path: Path) -> None:
    (record,) = list_table(written(tmp_path, "path,label\nsub/./a.png,cat\n")).records
    assert (record.name, record.label, record.split, record.source) == (
        "sub/a.png",
        "cat",
        None,
        tmp_path / "sub/a.png",
    )


def test_absolute_paths_stay(tmp_path: Path) -> None:
    (record,) = list_table(written(tmp_path, "path,label\n/data/a.png,cat\n")).records
    assert record.source == Path("/data/a.png")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_columns_in_any_order_with_others_between(tmp_path: Path, encoding: str) -> None:
    text = 'Label , width,PATH,split\n"big, cat",3,é.png,train\ncat,3,b.png,test\n\n'
    records = list_table(written(tmp_path, text, encoding)).records
    assert [(r.name, r.label, r.split) for r in records] == [("é.png", "big, cat", "train"), ("b.png", "cat", "val")]


def test_test_rows_are_unused_beside_val(tmp_path: Path) -> None:
    text = "path,label,split\na.png,x,train\nb.png,x,val\nc.png,x,test\n"
    assert [record.name for record in list_table(written(tmp_path, text)).records] == ["a.png", "b.png"]


def test_training_rows_alone_are_split_like_any(tmp_path: Path) -> None:
    records = list_table(written(tmp_path, "path,label,split\na.png,x,train\n")).records
    assert [record.split for record in records] == [None]


def test_rows_that_say_too_little_or_twice_are_skipped(tmp_path: Path) -> None:
    listing = list_table(written(tmp_path, "path,label\na.png,x\nb.png,\n,x\n./a.png,y\nc.png\n"))
    assert [record.name for record in listing.records] == ["a.png"]
    assert listing.skipped == [
        ("b.png", "line 3 lacks a label"),
        ("line 4", "line 4 lacks a path"),
        ("a.png", "line 5 names this path again"),
        ("c.png", "line 6 lacks a label"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column path and label.*reads: nothing"),
        ("file,label\na.png,x\n", "lacks the column path;.*reads: file, label"),
        ("path;label\na.png;x\n", "separated by commas, and reads: path;label"),
        ("path,label\n", "names no image"),
        ("path,label,split\na.png,x,train\nb.png,x,holdout\n", "line 3: split is 'holdout'; allowed"),
        ("path,label,split\na.png,x,train\nb.png,x,\n", "line 3: split is ''; allowed"),
        ("path,label,split\na.png,x,val\n", "has the split .'val'. but no train"),
    ],
)
def test_what_is_no_such_table(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list_table(written(tmp_path, text))


def test_a_table_that_is_not_text(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(DataError, match=r"not a CSV in UTF-8"):
        list_table(table)
