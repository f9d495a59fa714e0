from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ommatid.data import DataError, open_images

from .conftest import write_image


def test_files_and_folders_in_the_order_given(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder(b=1, a=2)
    alone = write_image(tmp_path / "no_suffix.bmp").rename(tmp_path / "no_suffix")
    images = open_images([alone, str(root), root / "a" / "00.png"])
    assert [path for path, _ in images] == [alone, root / "a/00.png", root / "a/01.png", root / "b/00.png"]
    assert len(images) == 4
    assert {image.mode for _, image in images} == {"RGB"}


def test_bad_files_are_passed_over_once(make_folder: Callable[..., Path]) -> None:
    root = make_folder(a=1)
    (root / "a" / "text.jpg").write_text("no image")
    cut = write_image(root / "a" / "cut.jpg", size=64)
    cut.write_bytes(cut.read_bytes()[:-800])
    images = open_images([root, root / "absent.png"])
    for _ in range(2):
        assert [path.name for path, _ in images] == ["00.png"]
    assert [(Path(path).name, reason.split(":")[0]) for path, reason in images.skipped] == [
        ("text.jpg", "not an image"),
        ("absent.png", "no such file"),
        ("cut.jpg", "truncated or damaged"),
    ]


def test_nothing_readable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 1 files can be read; the first is .*absent.png: no such file"):
        open_images([tmp_path / "absent.png"])
    with pytest.raises(DataError, match=r"holds no image file"):
        open_images([tmp_path])
    with pytest.raises(DataError, match=r"no image is named"):
        open_images([])


def test_nothing_readable_is_found_at_the_end(tmp_path: Path) -> None:
    cut = write_image(tmp_path / "cut.jpg", size=64)
    cut.write_bytes(cut.read_bytes()[:-800])
    with pytest.raises(DataError, match=r"cut.jpg: truncated"):
        list(open_images([cut]))
