"""restore: a better picture for each, whatever its size, depth and format."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from ommatid.data.picture_file import read_picture
from ommatid.workflows.restore import restore

from .negative import Into, Make, noise, saved
from .small import CIFAR, REPOSITORY, environment


def enlarged(pixels: np.ndarray, scale: int) -> np.ndarray:
    return pixels.repeat(scale, 0).repeat(scale, 1)


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 90), (90, 1), (33, 70), (1, 1)])
def test_every_pixel_is_restored_whatever_the_size(
    negative: Make, into_out: Into, tmp_path: Path, size: tuple[int, int], scale: int
) -> None:
    negative(scale=scale)
    pixels = noise(*size, 3)
    found = into_out(saved(tmp_path / "picture.png", pixels), tile=32)
    assert found.restored[0].after == (scale * size[1], scale * size[0])
    answer = np.asarray(Image.open(tmp_path / "out" / "picture.png"))
    np.testing.assert_array_equal(answer, 255 - enlarged(pixels, scale))


def test_tiles_are_no_larger_than_asked(negative: Make, into_out: Into, tmp_path: Path) -> None:
    model = negative()
    into_out(saved(tmp_path / "picture.png", noise(300, 200, 3)), tile=64)
    assert max(max(shape[-2:]) for shape in model.seen) <= 64
    assert all(side % 4 == 0 for shape in model.seen for side in shape[-2:])


def test_ensemble_sees_each_tile_eight_times(negative: Make, into_out: Into, tmp_path: Path) -> None:
    model = negative()
    pixels = noise(20, 31, 3)
    into_out(saved(tmp_path / "picture.png", pixels), ensemble=True)
    assert len(model.seen) == 8
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "picture.png")), 255 - pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_stays_grey_and_colours_colours(negative: Make, into_out: Into, tmp_path: Path, channels: int) -> None:
    negative(in_channels=channels)
    colours = noise(20, 31, 3)
    saved(tmp_path / "in" / "grey.png", colours[..., 0])
    saved(tmp_path / "in" / "colours.png", colours)
    into_out(tmp_path / "in")
    grey, colourful = (Image.open(tmp_path / "out" / f"{name}.png") for name in ("grey", "colours"))
    assert (grey.mode, colourful.mode) == ("L", "RGB")
    np.testing.assert_array_equal(np.asarray(grey), 255 - colours[..., 0])
    np.testing.assert_array_equal(np.asarray(colourful), 255 - colours)


def test_16_bits_stay_16_bits(negative: Make, into_out: Into, tmp_path: Path) -> None:
    negative(scale=2)
    deep = noise(20, 31, 3).astype(np.uint16) * 257 ^ 0x0033
    saved(tmp_path / "in" / "grey.png", deep[..., 0])
    cv2.imwrite(str(tmp_path / "in" / "colours.png"), deep)
    cv2.imwrite(str(tmp_path / "in" / "colours.tif"), deep)
    assert len(into_out(tmp_path / "in").restored) == 3
    for name in ("colours.png", "colours.tif"):
        answer = read_picture(tmp_path / "out" / name).pixels
        np.testing.assert_array_equal(answer, 65535 - enlarged(deep[..., ::-1], 2))
    np.testing.assert_array_equal(
        read_picture(tmp_path / "out" / "grey.png").pixels[..., 0], 65535 - enlarged(deep[..., 0], 2)
    )


@pytest.mark.parametrize("scale", [1, 2])
def test_transparency_is_kept_and_not_restored(negative: Make, into_out: Into, tmp_path: Path, scale: int) -> None:
    negative(scale=scale)
    pixels = noise(20, 31, 4)
    pixels[:, :10, 3] = 0
    pixels[:, 10:, 3] = 200
    into_out(saved(tmp_path / "picture.png", pixels))
    answer = np.asarray(Image.open(tmp_path / "out" / "picture.png"))
    np.testing.assert_array_equal(answer[..., :3], 255 - enlarged(pixels[..., :3], scale))
    assert (answer[:, : scale * 10 - 4, 3] == 0).all()
    assert (answer[:, scale * 10 + 4 :, 3] == 200).all()


def test_a_photograph_keeps_its_exif_and_format(negative: Make, into_out: Into, tmp_path: Path) -> None:
    negative(scale=2)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Camera"
    source = saved(tmp_path / "Photo 猫.JPG", noise(20, 31, 3), exif=exif.tobytes())
    into_out(source)
    with Image.open(tmp_path / "out" / "Photo 猫.JPG") as answer:
        assert answer.format == "JPEG"
        assert answer.size == (62, 40)
        assert answer.getexif()[ExifTags.Base.Orientation] == 6
        assert answer.getexif()[ExifTags.Base.Make] == "Camera"


def test_cmyk_is_converted_and_says_so(negative: Make, into_out: Into, tmp_path: Path) -> None:
    negative()
    Image.new("CMYK", (31, 20), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    (entry,) = into_out(tmp_path / "print.jpg").restored
    assert entry.notes == ("CMYK became RGB",)
    answer = np.asarray(Image.open(tmp_path / "out" / "print.jpg")).astype(int)
    assert (np.abs(answer - (0, 255, 255)) < 6).all()


def test_a_model_that_answers_nonsense_writes_nothing(negative: Make, into_out: Into, tmp_path: Path) -> None:
    negative(value=float("nan"))
    with pytest.raises(ValueError, match="infinite or no numbers"):
        into_out(saved(tmp_path / "x.png", noise(5, 6, 3)))
    assert not (tmp_path / "out" / "x.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tile": 31}, "tile = 31 is not possible"), ({"device": "toaster"}, "device = 'toaster' is not possible")],
)
def test_impossible_values(
    negative: Make, into_out: Into, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    negative()
    with pytest.raises(ValueError, match=message):
        into_out(saved(tmp_path / "x.png", noise(5, 6, 3)), **options)


def test_networks_of_other_channels_are_refused(negative: Make, into_out: Into, tmp_path: Path) -> None:
    negative(in_channels=5)
    with pytest.raises(ValueError, match="in_channels = 5 is not possible"):
        into_out(saved(tmp_path / "x.png", noise(5, 6, 3)))


def test_photographs_through_a_real_network(tiny_restorer: Path, tmp_path: Path) -> None:
    if not CIFAR.is_dir():
        pytest.skip(f"the real photographs are not here: {CIFAR}")
    folder = tmp_path / "in"
    shutil.copytree(CIFAR / "test" / "ship", folder, ignore=lambda _, names: sorted(names)[3:])
    found = restore(tiny_restorer, [folder], out=tmp_path / "out", progress=False)
    assert {entry.after for entry in found.restored} == {(64, 64)}
    assert len(found.restored) == 3


MEASURED = """
import resource, sys
from pathlib import Path
from unittest.mock import patch
from tests.workflows.negative import Negative, NegativeConfig
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
