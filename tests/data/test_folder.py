from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ommatid.data import DataError
from ommatid.data.folder import image_files, list_folder

from .conftest import write_image


def test_a_folder_per_class(make_folder: Callable[..., Path]) -> None:
    listing = list_folder(make_folder(cat=2, dog=1))
    assert [(r.name, r.label, r.split) for r in listing.records] == [
        ("cat/00.png", "cat", None),
        ("cat/01.png", "cat", None),
        ("dog/00.png", "dog", None),
    ]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test", "Val"])
def test_validation_folder_by_any_of_its_names(make_folder: Callable[..., Path], name: str) -> None:
    records = list_folder(make_folder(**{"train/cat": 1, f"{name}/cat": 1})).records
    assert {record.name: record.split for record in records} == {
        "train/cat/00.png": "train",
        f"{name}/cat/00.png": "val",
    }


def test_val_is_preferred_and_test_left_alone(make_folder: Callable[..., Path]) -> None:
    records = list_folder(make_folder(**{"train/cat": 1, "val/cat": 1, "test/cat": 1})).records
    assert sorted(record.name for record in records) == ["train/cat/00.png", "val/cat/00.png"]


def test_train_alone_is_split_like_any_folder(make_folder: Callable[..., Path]) -> None:
    records = list_folder(make_folder(**{"train/cat": 1, "train/dog": 1})).records
    assert [(record.label, record.split) for record in records] == [("cat", None), ("dog", None)]


def test_folders_inside_a_class_and_unicode_names(tmp_path: Path) -> None:
    write_image(tmp_path / "猫" / "été" / "über.png")
    assert [(r.name, r.label) for r in list_folder(tmp_path).records] == [("猫/été/über.png", "猫")]


def test_hidden_and_other_files_are_ignored(make_folder: Callable[..., Path]) -> None:
    root = make_folder(cat=1, **{".cache": 1, "__MACOSX": 1, "cat/.thumbs": 1})
    write_image(root / "cat" / "._00.png")
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / "README.md").write_text("not a class")
    assert [record.name for record in list_folder(root).records] == ["cat/00.png"]


def test_links_upwards_end_and_bring_in_no_other_class(make_folder: Callable[..., Path]) -> None:
    root = make_folder(cat=1, dog=1)
    (root / "cat" / "up").symlink_to(root, target_is_directory=True)
    (root / "cat" / "self").symlink_to(root / "cat", target_is_directory=True)
    assert [record.name for record in list_folder(root).records] == ["cat/00.png", "dog/00.png"]


def test_a_linked_folder_is_followed(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder(cat=1)
    write_image(tmp_path / "elsewhere" / "a.png")
    (root / "dog").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert [record.name for record in list_folder(root).records] == ["cat/00.png", "dog/a.png"]


def test_links_at_each_other_end(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        write_image(tmp_path / "outside" / name / "x.png")
        (tmp_path / "outside" / name / "link").symlink_to(tmp_path / "outside" / other, target_is_directory=True)
    names = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path / "outside" / "a", [])]
    assert names == ["outside/a/link/x.png", "outside/a/x.png"]


def test_an_empty_class_folder_is_told(make_folder: Callable[..., Path]) -> None:
    root = make_folder(cat=1)
    (root / "dog").mkdir()
    assert list_folder(root).skipped == [("dog/", "a folder without images")]


def test_images_without_class_folders(make_folder: Callable[..., Path]) -> None:
    root = make_folder(cat=1)
    with pytest.raises(DataError, match=r"put each class's images in a folder of its name"):
        list_folder(root / "cat")
