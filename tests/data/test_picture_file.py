"""Picture files of every kind, read and written: what was in them is in them still."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms, ImageOps

from ommatid.data.errors import UnreadableImageError
from ommatid.data.picture_file import PictureFile, read_picture, refusal, write_picture, written_name

SIZE = (23, 17)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def values() -> np.ndarray:
    """(17, 23, 4) random bytes."""
    return np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 4), dtype=np.uint8)


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    tags[ExifTags.Base.Make] = "Camera"
    tags[ExifTags.IFD.Exif] = {ExifTags.Base.ISOSpeedRatings: 400}
    return tags


def deep(values: np.ndarray) -> np.ndarray:
    """The values as 16 bits that are no multiples of 257."""
    return values.astype(np.uint16) * 257 ^ 0x0055


def copied(source: Path, into: Path) -> PictureFile:
    """The file read, written and read again."""
    write_picture(read_picture(source), into)
    return read_picture(into)


LOSSLESS = [
    *(("png", mode) for mode in ("L", "LA", "RGB", "RGBA")),
    *(("tif", mode) for mode in ("L", "LA", "RGB", "RGBA")),
    *(("tga", mode) for mode in ("L", "LA", "RGB", "RGBA")),
    *(("jp2", mode) for mode in ("L", "LA", "RGB", "RGBA")),
    *(("bmp", mode) for mode in ("L", "RGB")),
    *(("ppm", mode) for mode in ("L", "RGB")),
]


@pytest.mark.parametrize(("suffix", "mode"), LOSSLESS)
def test_lossless_formats_keep_every_pixel(tmp_path: Path, values: np.ndarray, suffix: str, mode: str) -> None:
    image = Image.fromarray(values).convert(mode)
    image.save(tmp_path / f"source.{suffix}")
    picture = copied(tmp_path / f"source.{suffix}", tmp_path / f"answer.{suffix}")
    assert picture.pixels.dtype == np.uint8
    assert picture.colours == (1 if mode in ("L", "LA") else 3)
    np.testing.assert_array_equal(picture.pixels, np.asarray(image).reshape(*SIZE[::-1], -1))
    assert picture.notes == ()


@pytest.mark.parametrize("suffix", ["png", "tif", "jp2", "pgm"])
def test_grey_of_16_bits(tmp_path: Path, values: np.ndarray, suffix: str) -> None:
    grey = deep(values)[..., 0]
    Image.fromarray(grey).save(tmp_path / f"source.{suffix}")
    picture = copied(tmp_path / f"source.{suffix}", tmp_path / f"answer.{suffix}")
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels[..., 0], grey)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_colours_of_16_bits_in_a_png(tmp_path: Path, values: np.ndarray, channels: int, suffix: str) -> None:
    """Also under a name that says something else."""
    colours = np.ascontiguousarray(deep(values)[..., :channels])
    kept = [np.frombuffer(part, np.uint8) for part in (exif().tobytes()[6:], PROFILE)]
    kinds = [cv2.IMAGE_METADATA_EXIF, cv2.IMAGE_METADATA_ICCP]
    order = [2, 1, 0, 3][:channels]
    cv2.imwriteWithMetadata(str(tmp_path / "source.png"), np.ascontiguousarray(colours[..., order]), kinds, kept)
    (tmp_path / "source.png").rename(tmp_path / f"source.{suffix}")
    first = read_picture(tmp_path / f"source.{suffix}")
    np.testing.assert_array_equal(first.pixels, colours)
    picture = copied(tmp_path / f"source.{suffix}", tmp_path / f"answer.{suffix}")
    np.testing.assert_array_equal(picture.pixels, colours)
    assert picture.icc_profile == PROFILE
    with Image.open(tmp_path / f"answer.{suffix}") as image:
        assert image.format == "PNG"
        assert image.getexif()[ExifTags.Base.Make] == "Camera"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"answer.{suffix}", f"source.{suffix}"]


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_in_a_tiff(
    tmp_path: Path, values: np.ndarray, channels: int, compression: str | None
) -> None:
    colours = np.ascontiguousarray(deep(values)[..., :channels])
    if compression == "lzw":  # tifffile does not write it, OpenCV writes nothing else
        cv2.imwrite(str(tmp_path / "source.tif"), np.ascontiguousarray(colours[..., [2, 1, 0, 3][:channels]]))
    else:
        transparency = ["unassalpha"] if channels == 4 else None
        tags = [(271, "s", 1, "Camera", True)]
        tifffile.imwrite(
            tmp_path / "source.tif",
            colours,
            photometric="rgb",
            extrasamples=transparency,
            compression=compression,
            iccprofile=PROFILE,
            extratags=tags,
        )
    picture = copied(tmp_path / "source.tif", tmp_path / "answer.tif")
    np.testing.assert_array_equal(picture.pixels, colours)
    with Image.open(tmp_path / "answer.tif") as image:
        assert image.format == "TIFF"
        if compression != "lzw":
            assert picture.icc_profile == PROFILE
            assert image.getexif()[ExifTags.Base.Make] == "Camera"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_of_16_bits_is_turned_as_pillow_turns_one_of_8(
    tmp_path: Path, values: np.ndarray, orientation: int
) -> None:
    for name, colours in (("deep", deep(values)[..., :3]), ("shallow", values[..., :3])):
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / f"{name}.tif", np.ascontiguousarray(colours), photometric="rgb", extratags=tags)
    shallow = read_picture(tmp_path / "shallow.tif")
    picture = copied(tmp_path / "deep.tif", tmp_path / "answer.tif")
    np.testing.assert_array_equal(picture.pixels, deep(shallow.pixels))


def test_grey_of_16_bits_with_transparency_becomes_rgba(tmp_path: Path, values: np.ndarray) -> None:
    grey = deep(values)[..., :2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in grey)
    header = struct.pack(">IIBBBBB", *SIZE, 16, 4, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    png = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    (tmp_path / "source.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png))
    picture = copied(tmp_path / "source.png", tmp_path / "answer.png")
    np.testing.assert_array_equal(picture.pixels, grey[..., [0, 0, 0, 1]])


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_exif_and_profile_stay(tmp_path: Path, values: np.ndarray, suffix: str) -> None:
    image = Image.fromarray(values).convert("RGB")
    image.save(tmp_path / f"source.{suffix}", exif=exif().tobytes(), icc_profile=PROFILE)
    picture = copied(tmp_path / f"source.{suffix}", tmp_path / f"answer.{suffix}")
    assert picture.icc_profile == PROFILE
    with Image.open(tmp_path / f"answer.{suffix}") as answer:
        answer.load()
        assert ImageOps.exif_transpose(answer).size == SIZE[::-1]
        tags = answer.getexif()
        assert tags[ExifTags.Base.Make] == "Camera"
        assert tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 400


def test_jpegs_are_written_well(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "docs" / "report.png"
    pixels = np.asarray(Image.open(path).convert("RGB"))
    write_picture(PictureFile(pixels, "JPEG"), tmp_path / "answer.jpg")
    error = read_picture(tmp_path / "answer.jpg").pixels.astype(float) - pixels
    assert 10 * np.log10(255**2 / (error**2).mean()) > 38


def test_cmyk_becomes_rgb_and_says_so(tmp_path: Path) -> None:
    Image.new("CMYK", SIZE, (0, 255, 255, 0)).save(tmp_path / "source.jpg", quality=100)
    picture = read_picture(tmp_path / "source.jpg")
    assert picture.notes == ("CMYK became RGB",)
    assert (np.abs(picture.pixels.astype(int) - (255, 0, 0)) < 4).all()
    assert picture.icc_profile == b""


def test_a_damaged_cmyk_profile_is_passed_over(tmp_path: Path) -> None:
    Image.new("CMYK", SIZE, (0, 255, 255, 0)).save(tmp_path / "source.jpg", quality=100, icc_profile=b"nonsense")
    assert (np.abs(read_picture(tmp_path / "source.jpg").pixels.astype(int) - (255, 0, 0)) < 4).all()


def test_palettes_become_full_colour(tmp_path: Path, values: np.ndarray) -> None:
    palette = Image.fromarray(values).convert("RGB").quantize(16)
    palette.save(tmp_path / "source.png")
    palette.save(tmp_path / "clear.png", transparency=0)
    picture, clear = read_picture(tmp_path / "source.png"), read_picture(tmp_path / "clear.png")
    np.testing.assert_array_equal(picture.pixels, np.asarray(palette.convert("RGB")))
    assert picture.notes == ("palette became full colour",)
    assert clear.pixels.shape[-1] == 4
    assert set(np.unique(clear.pixels[..., 3])) == {0, 255}


def test_a_gif_becomes_a_png(tmp_path: Path, values: np.ndarray) -> None:
    frames = [Image.fromarray(values + number).convert("P") for number in range(3)]
    frames[0].save(tmp_path / "source.gif", save_all=True, append_images=frames[1:])
    picture = read_picture(tmp_path / "source.gif")
    assert picture.format == "PNG"
    assert picture.notes[:2] == ("the first of 3 pictures", "GIF became PNG")
    assert written_name("source.gif", "GIF") == "source.gif.png"
    assert written_name("phone.jpg", "MPO") == "phone.jpg"


def test_black_and_white_becomes_grey(tmp_path: Path) -> None:
    Image.new("1", SIZE, 1).save(tmp_path / "source.png")
    picture = read_picture(tmp_path / "source.png")
    assert picture.pixels.shape == (*SIZE[::-1], 1)
    assert (picture.pixels == 255).all()


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [(np.full((4, 4), 0.5, np.float32), "floats"), (np.full((4, 4), 1 << 20, np.int32), "32 bits")],
)
def test_other_depths_are_refused(tmp_path: Path, pixels: np.ndarray, reason: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "source.tif")
    with pytest.raises(UnreadableImageError, match=reason):
        read_picture(tmp_path / "source.tif")


def test_a_deep_picture_that_is_cut_off_is_refused(tmp_path: Path, values: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "source.png"), deep(values)[..., :3])
    (tmp_path / "source.png").write_bytes((tmp_path / "source.png").read_bytes()[:700])
    with pytest.raises(UnreadableImageError, match="truncated or damaged"):
        read_picture(tmp_path / "source.png")


def test_what_a_format_cannot_hold() -> None:
    assert refusal("JPEG", 65500, 65500) is None
    assert refusal("PNG", 10**6, 10**6) is None
    reason = refusal("WEBP", 20000, 100)
    assert reason is not None
    assert "16383" in reason


def test_writing_leaves_the_pixels_as_they_are(tmp_path: Path, values: np.ndarray) -> None:
    picture = PictureFile(deep(values), "PNG")
    before = dataclasses.replace(picture, pixels=picture.pixels.copy())
    write_picture(picture, tmp_path / "answer.png")
    np.testing.assert_array_equal(picture.pixels, before.pixels)
