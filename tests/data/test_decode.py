from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ommatid.data.decode import image_size, read_image
from ommatid.data.errors import UnreadableImageError

from .conftest import write_image


def saved(image: Image.Image, path: Path, **options: object) -> np.ndarray:
    image.save(path, **options)
    decoded = read_image(path)
    assert decoded.mode == "RGB"
    return np.asarray(decoded)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header, checksum and all, claims a size that its body does not have."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, body, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    pixels = saved(Image.new("L", (4, 3), 77), tmp_path / "grey.png")
    assert pixels.shape == (3, 4, 3)
    assert (pixels == 77).all()


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    assert (saved(Image.new("1", (4, 3), 1), tmp_path / "bit.png") == 255).all()


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(255, (200, 0, 0)), (0, (255, 255, 255)), (51, (244, 204, 204))],
    ids=["solid", "clear", "fifth"],
)
def test_transparency_goes_over_white(tmp_path: Path, alpha: int, expected: tuple[int, int, int]) -> None:
    pixels = saved(Image.new("RGBA", (4, 3), (200, 0, 0, alpha)), tmp_path / "alpha.png")
    assert (pixels == expected).all()


def test_grey_with_alpha_goes_over_white(tmp_path: Path) -> None:
    assert (saved(Image.new("LA", (4, 3), (10, 0)), tmp_path / "la.png") == 255).all()


def test_palette(tmp_path: Path) -> None:
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (saved(image, tmp_path / "palette.png") == (10, 20, 30)).all()


def test_transparent_palette_entry_goes_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (saved(image, tmp_path / "palette.png", transparency=1) == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_is_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    pixels = saved(Image.fromarray(levels), tmp_path / f"deep.{suffix}")
    assert pixels[0, :, 0].tolist() == [0, 1, 100, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.2, 1], [0, 51, 255]),
        ([0, 51, 200], [0, 51, 200]),
        ([0, 257, 65535], [0, 1, 255]),
        ([-1, 0, 1], [0, 128, 255]),
    ],
    ids=["unit", "8 bit", "16 bit", "signed"],
)
def test_float_tiff_is_scaled_by_the_range_that_holds_it(tmp_path: Path, values: list, expected: list[int]) -> None:
    pixels = saved(Image.fromarray(np.array([values], dtype=np.float32)), tmp_path / "float.tiff")
    assert pixels[0, :, 0].tolist() == expected


def test_float_that_is_not_a_number_is_black(tmp_path: Path) -> None:
    pixels = saved(Image.fromarray(np.array([[np.nan, 1]], dtype=np.float32)), tmp_path / "nan.tiff")
    assert pixels[0, :, 0].tolist() == [0, 255]


def test_cmyk(tmp_path: Path) -> None:
    pixels = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "print.jpg", quality=95)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 4


def test_exif_rotation_is_undone(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees clockwise
    pixels = saved(image, tmp_path / "turned.png", exif=exif)
    assert pixels.shape == (6, 4, 3)
    assert pixels[0, 3].tolist() == [255, 255, 255]


def test_damaged_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    entries = [(0x0112, 3, 1, b"\0\6\0\0"), (0x0100, 2, 3, b"ab\0\0")]  # turned, and a width that is text
    table = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + table + bytes(4)
    assert (saved(Image.new("RGB", (4, 3), (9, 9, 9)), tmp_path / "exif.png", exif=exif) == 9).all()


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    assert (saved(frames[0], tmp_path / "frames.gif", save_all=True, append_images=frames[1:]) == (255, 0, 0)).all()


def test_size_is_read_without_decoding(tmp_path: Path) -> None:
    path = tmp_path / "claims.png"
    path.write_bytes(png_claiming(300, 200))
    assert image_size(path) == (300, 200)


def test_truncated_jpeg(tmp_path: Path) -> None:
    path = write_image(tmp_path / "cut.jpg", size=64)
    path.write_bytes(path.read_bytes()[:-800])
    assert image_size(path) == (64, 64)
    with pytest.raises(UnreadableImageError, match=r"truncated"):
        read_image(path)


@pytest.mark.parametrize("pillow_limit", [Image.MAX_IMAGE_PIXELS, None], ids=["Pillow's limit", "lifted by someone"])
def test_absurd_size_is_refused_from_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pillow_limit: int | None
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(60_000, 60_000))
    with pytest.raises(UnreadableImageError, match=r"too large.*179 million"):
        image_size(path)


@pytest.mark.parametrize(("content", "reason"), [(b"", "0 bytes"), (b"some text, no image", "not an image")])
def test_what_is_no_image(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason):
        read_image(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"no such file"):
        read_image(tmp_path / "absent.jpg")


def test_link_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "loop.jpg"
    path.symlink_to(path)
    with pytest.raises(UnreadableImageError, match=r"symbolic links"):
        read_image(path)


def test_named_pipe_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "pipe.jpg"
    os.mkfifo(path)
    with pytest.raises(UnreadableImageError, match=r"not a regular file"):
        read_image(path)
