"""Colours of 16 bits, which Pillow cuts to 8: PNG through OpenCV, TIFF through tifffile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import ExifTags, Image

from ommatid.data.errors import UnreadableImageError

EXIF_PREFIX = b"Exif\x00\x00"

TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""How a picture becomes upright, for each value of the orientation tag."""

# Of a TIFF's tags these tell of the picture; the others say where its bytes lie and how they are packed.
DESCRIPTIVE_TAGS = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)


def is_deep(image: Image.Image, path: Path) -> bool:
    """Whether the file of an opened image has 16 bits per channel."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24] == 16  # the bit depth, in the header that every PNG begins with
    tags = getattr(image, "tag_v2", {})
    return max(tags.get(ExifTags.Base.BitsPerSample, (8,))) == 16


def read_deep(image: Image.Image, path: Path) -> np.ndarray:
    """(H, W, 3 or 4) uint16, turned where Pillow has turned the image. Raises UnreadableImageError."""
    pixels = _read_by_opencv(path) if image.format == "PNG" else _read_tiff(path)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (image.height, image.width):
        raise UnreadableImageError("its 16-bit colours cannot be decoded")
    return pixels


def write_deep(pixels: np.ndarray, path: Path, format: str, exif: bytes, icc_profile: bytes) -> None:
    """Writes (H, W, 3 or 4) uint16 as PNG or TIFF. Raises OSError."""
    if format == "PNG":
        _write_png(pixels, path, exif, icc_profile)
    else:
        _write_tiff(pixels, path, exif, icc_profile)


def _read_tiff(path: Path) -> np.ndarray | None:
    """Turned as its orientation says, which is what Pillow does with TIFF alone."""
    with tifffile.TiffFile(path) as file:
        first = file.pages.first
        orientation = first.tags.valueof("Orientation", 1)
        try:
            return np.ascontiguousarray(TURNS[orientation](first.asarray()))
        except (ValueError, KeyError):  # a compression, LZW for one, for which it needs imagecodecs
            return _read_by_opencv(path) if orientation == 1 else None


def _read_by_opencv(path: Path) -> np.ndarray | None:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is not None:
        _exchange_red_and_blue(pixels)
    return pixels


def _write_png(pixels: np.ndarray, path: Path, exif: bytes, icc_profile: bytes) -> None:
    kept = {cv2.IMAGE_METADATA_EXIF: exif.removeprefix(EXIF_PREFIX), cv2.IMAGE_METADATA_ICCP: icc_profile}
    kinds = [kind for kind, value in kept.items() if value]
    values = [np.frombuffer(kept[kind], np.uint8) for kind in kinds]
    # OpenCV takes the format from the name, which a file's own name need not tell.
    named = path.with_name(f"{path.name}.png")
    _exchange_red_and_blue(pixels)
    try:
        if not cv2.imwriteWithMetadata(str(named), pixels, kinds, values):
            raise OSError(f"{path} cannot be written")
        named.replace(path)
    finally:
        named.unlink(missing_ok=True)
        _exchange_red_and_blue(pixels)


def _write_tiff(pixels: np.ndarray, path: Path, exif: bytes, icc_profile: bytes) -> None:
    tags = Image.Exif()
    tags.load(exif)
    words = [(tag, tags[tag]) for tag in DESCRIPTIVE_TAGS if tag in tags]
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        extrasamples=["unassalpha"] if pixels.shape[-1] == 4 else None,
        compression="zlib",
        iccprofile=icc_profile or None,
        metadata=None,
        software=False,
        extratags=[(int(tag), "H" if isinstance(value, int) else "s", 1, value, True) for tag, value in words],
    )


def _exchange_red_and_blue(pixels: np.ndarray) -> None:
    """RGB(A) to OpenCV's BGR(A) and back, in place and by rows: a copy of a large picture may not fit."""
    for row in pixels:
        row[:, :3] = row[:, 2::-1].copy()
