"""restore: a better picture for each, whatever they are, and no file lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torch.nn import functional as F

from ommatid.data.picture_file import read_picture
from ommatid.models import create_model, save
from ommatid.models.config import PartConfig
from ommatid.models.restorer import Restorer
from ommatid.runs.trained import RestorerFacts, TrainedRestorer
from ommatid.workflows.restore import Restorations, restore

from .small import CIFAR, REPOSITORY, environment

Run = Callable[..., Restorations]


@dataclass(frozen=True)
class NegativeConfig(PartConfig):
    scale: int = 1
    in_channels: int = 3
    value: float = 1.0


class Negative(Restorer):
    """Gives `value` minus the picture, every pixel repeated: all of an answer is known beforehand."""

    multiple = (4, 4)

    def __init__(self, config: NegativeConfig) -> None:
        super().__init__(config)
        self.scale = config.scale
        self.channels, self.value = config.in_channels, config.value
        self.seen: list[torch.Size] = []

    def restore(self, image: Tensor) -> Tensor:
        assert image.shape[1] == self.channels
        self.seen.append(image.shape)
        return self.value - F.interpolate(image, scale_factor=self.scale)


@pytest.fixture
def negative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Negative]:
    """Makes the network that `restore` opens; its configuration is what its weights file holds."""
    weights = tmp_path / "negative.safetensors"

    def made(**fields: float) -> Negative:
        model = Negative(NegativeConfig(**fields))  # type: ignore[arg-type]
        weights.write_text(json.dumps(fields))
        facts = RestorerFacts("negative", "bicubic x2", 48)
        opened = TrainedRestorer(model, facts, weights, None)
        monkeypatch.setattr("ommatid.workflows.restore.open_picture_restorer", lambda run: opened)
        return model

    return made


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return lambda *paths, **options: restore("run", paths, out=tmp_path / "out", progress=False, **options)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def enlarged(pixels: np.ndarray, scale: int) -> np.ndarray:
    return pixels.repeat(scale, 0).repeat(scale, 1)


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 90), (90, 1), (33, 70), (1, 1)])
def test_every_pixel_is_restored_whatever_the_size(
    negative: Callable[..., Negative], run: Run, tmp_path: Path, size: tuple[int, int], scale: int
) -> None:
    negative(scale=scale)
    pixels = noise(*size, 3)
    found = run(saved(tmp_path / "picture.png", pixels), tile=32)
    assert found.restored[0].after == (scale * size[1], scale * size[0])
    answer = np.asarray(Image.open(tmp_path / "out" / "picture.png"))
    np.testing.assert_array_equal(answer, 255 - enlarged(pixels, scale))


def test_tiles_are_no_larger_than_asked(negative: Callable[..., Negative], run: Run, tmp_path: Path) -> None:
    model = negative()
    run(saved(tmp_path / "picture.png", noise(300, 200, 3)), tile=64)
    assert max(max(shape[-2:]) for shape in model.seen) <= 64
    assert all(side % 4 == 0 for shape in model.seen for side in shape[-2:])


def test_ensemble_sees_each_tile_eight_times(negative: Callable[..., Negative], run: Run, tmp_path: Path) -> None:
    model = negative()
    pixels = noise(20, 31, 3)
    run(saved(tmp_path / "picture.png", pixels), ensemble=True)
    assert len(model.seen) == 8
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "picture.png")), 255 - pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_stays_grey_and_colours_colours(
    negative: Callable[..., Negative], run: Run, tmp_path: Path, channels: int
) -> None:
    negative(in_channels=channels)
    colours = noise(20, 31, 3)
    saved(tmp_path / "in" / "grey.png", colours[..., 0])
    saved(tmp_path / "in" / "colours.png", colours)
    run(tmp_path / "in")
    grey, colourful = (Image.open(tmp_path / "out" / f"{name}.png") for name in ("grey", "colours"))
    assert (grey.mode, colourful.mode) == ("L", "RGB")
    np.testing.assert_array_equal(np.asarray(grey), 255 - colours[..., 0])
    np.testing.assert_array_equal(np.asarray(colourful), 255 - colours)


def test_16_bits_stay_16_bits(negative: Callable[..., Negative], run: Run, tmp_path: Path) -> None:
    negative(scale=2)
    deep = noise(20, 31, 3).astype(np.uint16) * 257 ^ 0x0033
    saved(tmp_path / "in" / "grey.png", deep[..., 0])
    cv2.imwrite(str(tmp_path / "in" / "colours.png"), deep)
    cv2.imwrite(str(tmp_path / "in" / "colours.tif"), deep)
    assert len(run(tmp_path / "in").restored) == 3
    for name in ("colours.png", "colours.tif"):
        answer = read_picture(tmp_path / "out" / name).pixels
        np.testing.assert_array_equal(answer, 65535 - enlarged(deep[..., ::-1], 2))
    np.testing.assert_array_equal(
        read_picture(tmp_path / "out" / "grey.png").pixels[..., 0], 65535 - enlarged(deep[..., 0], 2)
    )


@pytest.mark.parametrize("scale", [1, 2])
def test_transparency_is_kept_and_not_restored(
    negative: Callable[..., Negative], run: Run, tmp_path: Path, scale: int
) -> None:
    negative(scale=scale)
    pixels = noise(20, 31, 4)
    pixels[:, :10, 3] = 0
    pixels[:, 10:, 3] = 200
    run(saved(tmp_path / "picture.png", pixels))
    answer = np.asarray(Image.open(tmp_path / "out" / "picture.png"))
    np.testing.assert_array_equal(answer[..., :3], 255 - enlarged(pixels[..., :3], scale))
    assert (answer[:, : scale * 10 - 4, 3] == 0).all()
    assert (answer[:, scale * 10 + 4 :, 3] == 200).all()


def test_a_photograph_keeps_its_exif_and_format(negative: Callable[..., Negative], run: Run, tmp_path: Path) -> None:
    negative(scale=2)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Camera"
    source = saved(tmp_path / "Photo 猫.JPG", noise(20, 31, 3), exif=exif.tobytes())
    run(source)
    with Image.open(tmp_path / "out" / "Photo 猫.JPG") as answer:
        assert answer.format == "JPEG"
        assert answer.size == (62, 40)
        assert answer.getexif()[ExifTags.Base.Orientation] == 6
        assert answer.getexif()[ExifTags.Base.Make] == "Camera"


def test_cmyk_is_converted_and_says_so(negative: Callable[..., Negative], run: Run, tmp_path: Path) -> None:
    negative()
    Image.new("CMYK", (31, 20), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    (entry,) = run(tmp_path / "print.jpg").restored
    assert entry.notes == ("CMYK became RGB",)
    answer = np.asarray(Image.open(tmp_path / "out" / "print.jpg")).astype(int)
    assert (np.abs(answer - (0, 255, 255)) < 6).all()


def test_bad_files_are_named_and_passed_over(negative: Callable[..., Negative], run: Run, tmp_path: Path) -> None:
    negative()
    folder = tmp_path / "in"
    saved(folder / "good.png", noise(20, 31, 3))
    (folder / "empty.png").write_bytes(b"")
    (folder / "words.jpg").write_text("no picture")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:900])
    header = b"IHDR" + struct.pack(">IIBBBBB", 65536, 65536, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "absurd.png").write_bytes(start + b"\0\0\0\x20IDAT" + b"\0" * 64)
    found = run(folder, tmp_path / "missing.png")
    assert [entry.output for entry in found.restored] == ["in/good.png"]
    reasons = {Path(path).name: reason for path, reason in found.skipped}
    assert set(reasons) == {"empty.png", "words.jpg", "cut.png", "absurd.png", "missing.png"}
    assert "too large" in reasons["absurd.png"]
    assert "truncated" in reasons["cut.png"]
    assert sorted(os.listdir(tmp_path / "out" / "in")) == ["good.png"]


def test_an_answer_too_large_for_its_format_is_refused_before_the_work(
    negative: Callable[..., Negative], run: Run, tmp_path: Path
) -> None:
    model = negative(scale=2)
    saved(tmp_path / "in" / "wide.webp", noise(2, 9000, 3))
    saved(tmp_path / "in" / "wide.png", noise(2, 9000, 3))
    found = run(tmp_path / "in", page=False)
    assert [entry.output for entry in found.restored] == ["wide.png"]
    assert "18000 x 4 pixels is more than a WEBP file holds" in found.skipped[0].reason
    assert all(shape[-1] <= 256 for shape in model.seen)


def test_folders_are_mirrored(negative: Callable[..., Negative], run: Run, tmp_path: Path) -> None:
    negative()
    for name in ("a/x.png", "a/deep/x.png", "b/x.png"):
        saved(tmp_path / name, noise(5, 6, 3))
    assert [entry.output for entry in run(tmp_path / "a").restored] == ["deep/x.png", "x.png"]
    outputs = [entry.output for entry in run(tmp_path / "a", tmp_path / "b").restored]
    assert outputs == ["a/deep/x.png", "a/x.png", "b/x.png"]


def test_what_is_done_is_not_done_again(negative: Callable[..., Negative], run: Run, tmp_path: Path) -> None:
    model = negative()
    folder = tmp_path / "in"
    first, second = (saved(folder / f"{name}.png", noise(5, 6, 3)) for name in "ab")
    run(folder)
    model.seen.clear()
    found = run(folder)
    assert (model.seen, found.restored) == ([], [])
    assert [entry.output for entry in found.earlier] == ["a.png", "b.png"]
    saved(first, noise(7, 8, 3))  # the picture has changed
    assert [entry.output for entry in run(folder).restored] == ["a.png"]
    (tmp_path / "out" / "b.png").unlink()  # the answer is gone
    assert [entry.output for entry in run(folder).restored] == ["b.png"]
    assert len(run(folder, tile=64).restored) == 2  # other settings
    negative(value=0.5)  # another network
    assert len(run(folder, tile=64).restored) == 2
    assert second.is_file()


def test_no_file_is_overwritten_that_restore_has_not_made(
    negative: Callable[..., Negative], run: Run, tmp_path: Path
) -> None:
    negative()
    picture = saved(tmp_path / "in" / "x.png", noise(5, 6, 3))
    others = saved(tmp_path / "out" / "x.png", noise(9, 9, 3))
    before = others.read_bytes()
    with pytest.raises(ValueError, match="is there already and was not made by restore"):
        run(picture)
    assert others.read_bytes() == before
    others.unlink()
    run(picture)
    edited = saved(others, noise(9, 9, 3))
    with pytest.raises(ValueError, match="is there already and was not made by restore"):
        run(picture)
    np.testing.assert_array_equal(np.asarray(Image.open(edited)), noise(9, 9, 3))
    edited.unlink()
    run(picture)
    namesake = saved(tmp_path / "elsewhere" / "x.png", noise(5, 6, 3))
    with pytest.raises(ValueError, match="was made from"):
        run(namesake)


def test_no_picture_is_overwritten_by_its_answer(negative: Callable[..., Negative], run: Run, tmp_path: Path) -> None:
    negative()
    picture = saved(tmp_path / "out" / "x.png", noise(5, 6, 3))
    with pytest.raises(ValueError, match="would be overwritten"):
        run(tmp_path / "out")
    with pytest.raises(ValueError, match="would be overwritten"):
        run(picture)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(ValueError, match="would be overwritten"):
        run(tmp_path / "link" / "x.png")
    np.testing.assert_array_equal(np.asarray(Image.open(picture)), noise(5, 6, 3))


def test_two_pictures_never_become_one(negative: Callable[..., Negative], run: Run, tmp_path: Path) -> None:
    negative()
    pictures = [saved(tmp_path / name / "x.png", noise(5, 6, 3)) for name in "ab"]
    with pytest.raises(ValueError, match="would both become"):
        run(*pictures)
    assert not (tmp_path / "out" / "x.png").exists()


def test_answers_inside_the_folder_of_pictures_are_not_restored_again(
    negative: Callable[..., Negative], tmp_path: Path
) -> None:
    negative()
    saved(tmp_path / "in" / "x.png", noise(5, 6, 3))
    for _ in range(2):
        found = restore("run", [tmp_path / "in"], out=tmp_path / "in" / "restored", progress=False)
        assert len(found.restored + found.earlier) == 1
    assert sorted(path.name for path in (tmp_path / "in").rglob("*.png")) == ["x.png", "x.png"]


def test_the_page_shows_pictures_of_both_times(negative: Callable[..., Negative], run: Run, tmp_path: Path) -> None:
    negative(scale=2)
    for number in range(14):
        saved(tmp_path / "in" / f"{number:02}.png", noise(5, 6, 3))
    found = run(tmp_path / "in")
    assert found.report is not None
    assert found.report.read_text().count('type="range"') == 12
    run(tmp_path / "in")
    text = found.report.read_text()
    assert text.count('type="range"') == 12
    assert "13.png" in text
    assert run(tmp_path / "in", page=False).report is None


def test_a_model_that_answers_nonsense_writes_nothing(
    negative: Callable[..., Negative], run: Run, tmp_path: Path
) -> None:
    negative(value=float("nan"))
    with pytest.raises(ValueError, match="infinite or no numbers"):
        run(saved(tmp_path / "x.png", noise(5, 6, 3)))
    assert not (tmp_path / "out" / "x.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tile": 31}, "tile = 31 is not possible"), ({"device": "toaster"}, "device = 'toaster' is not possible")],
)
def test_impossible_values(
    negative: Callable[..., Negative], run: Run, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    negative()
    with pytest.raises(ValueError, match=message):
        run(saved(tmp_path / "x.png", noise(5, 6, 3)), **options)


def test_networks_of_other_channels_are_refused(negative: Callable[..., Negative], run: Run, tmp_path: Path) -> None:
    negative(in_channels=5)
    with pytest.raises(ValueError, match="in_channels = 5 is not possible"):
        run(saved(tmp_path / "x.png", noise(5, 6, 3)))


def test_nothing_to_restore(negative: Callable[..., Negative], run: Run, tmp_path: Path) -> None:
    negative()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        run(tmp_path / "empty")
    (tmp_path / "cut.png").write_bytes(saved(tmp_path / "x.png", noise(50, 60, 3)).read_bytes()[:2000])
    with pytest.raises(ValueError, match="none of the 1 pictures can be restored"):
        run(tmp_path / "cut.png")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A tiny network of a registered family, as a training would have saved it."""
    torch.manual_seed(0)
    model = create_model("hat", dim=12, depths=[1], heads=[2], window_size=8, compress_ratio=3, squeeze_factor=3)
    path = tmp_path / "tiny.safetensors"
    save(model, path, extra=RestorerFacts("hat", "bicubic x2", 48).to_header())
    return path


def test_photographs_through_a_real_network(weights: Path, tmp_path: Path) -> None:
    if not CIFAR.is_dir():
        pytest.skip(f"the real photographs are not here: {CIFAR}")
    folder = tmp_path / "in"
    shutil.copytree(CIFAR / "test" / "ship", folder, ignore=lambda _, names: sorted(names)[3:])
    found = restore(weights, [folder], out=tmp_path / "out", progress=False)
    assert {entry.after for entry in found.restored} == {(64, 64)}
    assert len(found.restored) == 3


def test_killed_and_started_again_it_does_the_rest(weights: Path, tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(5)]
    for name in names:
        saved(tmp_path / "in" / name, noise(200, 200, 3))
    script = "import sys; from ommatid.cli import main; main(sys.argv[1:])"
    words = ["restore", weights, tmp_path / "in", "--out", tmp_path / "out", "--tile", "64"]
    process = subprocess.Popen([sys.executable, "-c", script, *map(str, words)], env=environment())
    while not (tmp_path / "out" / names[1]).exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert 2 <= len(there) < len(names)
    assert all(Image.open(tmp_path / "out" / name).size == (400, 400) for name in there)
    found = restore(weights, [tmp_path / "in"], out=tmp_path / "out", tile=64, progress=False)
    assert [entry.output for entry in found.earlier] == there
    assert [entry.output for entry in found.restored] == [name for name in names if name not in there]


MEASURED = """
import resource, sys
from pathlib import Path
from unittest.mock import patch
from tests.workflows.test_restore import Negative, NegativeConfig
from ommatid.runs.trained import RestorerFacts, TrainedRestorer
from ommatid.workflows.restore import restore

picture, out = map(Path, sys.argv[1:])
opened = TrainedRestorer(Negative(NegativeConfig(scale=2)), RestorerFacts("negative", None, 48), picture, None)
with patch("ommatid.workflows.restore.open_picture_restorer", lambda run: opened):
    restore("run", [picture], out=out, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_memory_grows_by_the_bytes_of_the_picture_and_its_answer_alone(tmp_path: Path) -> None:
    """A float copy of the answer alone would be 48 bytes for each pixel of the picture."""
    peaks, width, heights = [], 256, (500, 10500)
    for height in heights:
        source = saved(tmp_path / f"{height}.png", np.zeros((height, width, 3), np.uint8))
        words = [sys.executable, "-c", MEASURED, str(source), str(tmp_path / "out")]
        done = subprocess.run(words, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    pixels = width * (heights[1] - heights[0])
    # For each pixel, 3 bytes decoded; for its 4 of the answer, 3 restored and 4 in Pillow to be written; a few at ends.
    assert peaks[1] - peaks[0] < 1.15 * pixels * (3 + 4 * (3 + 4))
