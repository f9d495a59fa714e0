"""restore: no file is lost, overwritten or worked on twice."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ommatid.workflows.restore import restore

from .negative import Into, Make, noise, saved
from .small import environment


def test_bad_files_are_named_and_passed_over(negative: Make, into_out: Into, tmp_path: Path) -> None:
    negative()
    folder = tmp_path / "in"
    saved(folder / "good.png", noise(20, 31, 3))
    (folder / "empty.png").write_bytes(b"")
    (folder / "words.jpg").write_text("no picture")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:900])
    header = b"IHDR" + struct.pack(">IIBBBBB", 65536, 65536, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "absurd.png").write_bytes(start + b"\0\0\0\x20IDAT" + b"\0" * 64)
    found = into_out(folder, tmp_path / "missing.png")
    assert [entry.output for entry in found.restored] == ["in/good.png"]
    reasons = {Path(path).name: reason for path, reason in found.skipped}
    assert set(reasons) == {"empty.png", "words.jpg", "cut.png", "absurd.png", "missing.png"}
    assert "too large" in reasons["absurd.png"]
    assert "truncated" in reasons["cut.png"]
    assert sorted(os.listdir(tmp_path / "out" / "in")) == ["good.png"]


def test_an_answer_too_large_for_its_format_is_refused_before_the_work(
    negative: Make, into_out: Into, tmp_path: Path
) -> None:
    model = negative(scale=2)
    saved(tmp_path / "in" / "wide.webp", noise(2, 9000, 3))
    saved(tmp_path / "in" / "wide.png", noise(2, 9000, 3))
    found = into_out(tmp_path / "in", page=False)
    assert [entry.output for entry in found.restored] == ["wide.png"]
    assert "18000 x 4 pixels is more than a WEBP file holds" in found.skipped[0].reason
    assert all(shape[-1] <= 256 for shape in model.seen)


def test_folders_are_mirrored(negative: Make, into_out: Into, tmp_path: Path) -> None:
    negative()
    for name in ("a/x.png", "a/deep/x.png", "b/x.png"):
        saved(tmp_path / name, noise(5, 6, 3))
    assert [entry.output for entry in into_out(tmp_path / "a").restored] == ["deep/x.png", "x.png"]
    outputs = [entry.output for entry in into_out(tmp_path / "a", tmp_path / "b").restored]
    assert outputs == ["a/deep/x.png", "a/x.png", "b/x.png"]


def test_what_is_done_is_not_done_again(negative: Make, into_out: Into, tmp_path: Path) -> None:
    model = negative()
    folder = tmp_path / "in"
    first, second = (saved(folder / f"{name}.png", noise(5, 6, 3)) for name in "ab")
    into_out(folder)
    model.seen.clear()
    found = into_out(folder)
    assert (model.seen, found.restored) == ([], [])
    assert [entry.output for entry in found.earlier] == ["a.png", "b.png"]
    saved(first, noise(7, 8, 3))  # the picture has changed
    assert [entry.output for entry in into_out(folder).restored] == ["a.png"]
    (tmp_path / "out" / "b.png").unlink()  # the answer is gone
    assert [entry.output for entry in into_out(folder).restored] == ["b.png"]
    assert len(into_out(folder, tile=64).restored) == 2  # other settings
    negative(value=0.5)  # another network
    assert len(into_out(folder, tile=64).restored) == 2
    assert second.is_file()


def test_no_file_is_overwritten_that_restore_has_not_made(negative: Make, into_out: Into, tmp_path: Path) -> None:
    negative()
    picture = saved(tmp_path / "in" / "x.png", noise(5, 6, 3))
    others = saved(tmp_path / "out" / "x.png", noise(9, 9, 3))
    before = others.read_bytes()
    with pytest.raises(ValueError, match="is there already and was not made by restore"):
        into_out(picture)
    assert others.read_bytes() == before
    others.unlink()
    into_out(picture)
    edited = saved(others, noise(9, 9, 3))
    with pytest.raises(ValueError, match="is there already and was not made by restore"):
        into_out(picture)
    np.testing.assert_array_equal(np.asarray(Image.open(edited)), noise(9, 9, 3))
    edited.unlink()
    into_out(picture)
    namesake = saved(tmp_path / "elsewhere" / "x.png", noise(5, 6, 3))
    with pytest.raises(ValueError, match="was made from"):
        into_out(namesake)


def test_no_picture_is_overwritten_by_its_answer(negative: Make, into_out: Into, tmp_path: Path) -> None:
    negative()
    picture = saved(tmp_path / "out" / "x.png", noise(5, 6, 3))
    with pytest.raises(ValueError, match="would be overwritten"):
        into_out(tmp_path / "out")
    with pytest.raises(ValueError, match="would be overwritten"):
        into_out(picture)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(ValueError, match="would be overwritten"):
        into_out(tmp_path / "link" / "x.png")
    np.testing.assert_array_equal(np.asarray(Image.open(picture)), noise(5, 6, 3))


def test_two_pictures_never_become_one(negative: Make, into_out: Into, tmp_path: Path) -> None:
    negative()
    pictures = [saved(tmp_path / name / "x.png", noise(5, 6, 3)) for name in "ab"]
    with pytest.raises(ValueError, match="would both become"):
        into_out(*pictures)
    assert not (tmp_path / "out" / "x.png").exists()


def test_answers_inside_the_folder_of_pictures_are_not_restored_again(negative: Make, tmp_path: Path) -> None:
    negative()
    saved(tmp_path / "in" / "x.png", noise(5, 6, 3))
    for _ in range(2):
        found = restore("run", [tmp_path / "in"], out=tmp_path / "in" / "restored", progress=False)
        assert len(found.restored + found.earlier) == 1
    assert sorted(path.name for path in (tmp_path / "in").rglob("*.png")) == ["x.png", "x.png"]


def test_the_page_shows_pictures_of_both_times(negative: Make, into_out: Into, tmp_path: Path) -> None:
    negative(scale=2)
    for number in range(14):
        saved(tmp_path / "in" / f"{number:02}.png", noise(5, 6, 3))
    found = into_out(tmp_path / "in")
    assert found.report is not None
    assert found.report.read_text().count('type="range"') == 12
    into_out(tmp_path / "in")
    text = found.report.read_text()
    assert text.count('type="range"') == 12
    assert "13.png" in text
    assert into_out(tmp_path / "in", page=False).report is None


def test_nothing_to_restore(negative: Make, into_out: Into, tmp_path: Path) -> None:
    negative()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        into_out(tmp_path / "empty")
    (tmp_path / "cut.png").write_bytes(saved(tmp_path / "x.png", noise(50, 60, 3)).read_bytes()[:2000])
    with pytest.raises(ValueError, match="none of the 1 pictures can be restored"):
        into_out(tmp_path / "cut.png")


def test_killed_and_started_again_it_does_the_rest(tiny_restorer: Path, tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(5)]
    for name in names:
        saved(tmp_path / "in" / name, noise(200, 200, 3))
    script = "import sys; from ommatid.cli import main; main(sys.argv[1:])"
    words = ["restore", tiny_restorer, tmp_path / "in", "--out", tmp_path / "out", "--tile", "64"]
    process = subprocess.Popen([sys.executable, "-c", script, *map(str, words)], env=environment())
    while not (tmp_path / "out" / names[1]).exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert 2 <= len(there) < len(names)
    assert all(Image.open(tmp_path / "out" / name).size == (400, 400) for name in there)
    found = restore(tiny_restorer, [tmp_path / "in"], out=tmp_path / "out", tile=64, progress=False)
    assert [entry.output for entry in found.earlier] == there
    assert [entry.output for entry in found.restored] == [name for name in names if name not in there]
