"""A picture file with all that has to outlive a change of its pixels: depth, transparency, EXIF and colour profile."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms

from ommatid.data.decode import decoded
from ommatid.data.deep_colour import DESCRIPTIVE_TAGS, is_deep, read_deep, write_deep
from ommatid.data.errors import UnreadableImageError

GREY_MODES = ("1", "L", "LA", "La")
KEPT_MODES = (*GREY_MODES, "I;16", "I;16B", "I;16L", "I", "RGB", "RGBA", "RGBX", "RGBa", "P", "PA")
"""Pillow's modes whose colours, and therefore their profile, stay what they are."""

SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 95},
    "TIFF": {},  # compressed, Pillow cannot write what the camera was set to
    "PNG": {},
    "BMP": {},
    "PPM": {},
    "TGA": {},
    "JPEG2000": {},
}
"""The formats that hold restored colours. A picture of any other (a GIF has 256 colours) becomes a PNG."""

LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "AVIF": 65535}

TAG_FOLDERS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)


@dataclass(frozen=True)
class PictureFile:
    """What a picture file holds.

    Attributes:
        pixels: (H, W, C), uint8 or uint16, not turned by the orientation in `exif`. C is 1 (grey) or 3 (RGB), and one
            more where there is transparency.
        format: Pillow's name of the format that it is to be written in.
        exif: as stored, empty where there is none. A TIFF's picture is turned when it is read, and its tag dropped.
        icc_profile: the colour profile, empty where there is none.
        notes: what could not be kept as it was.
    """

    pixels: np.ndarray
    format: str
    exif: bytes = b""
    icc_profile: bytes = b""
    notes: tuple[str, ...] = ()

    @property
    def colours(self) -> int:
        """Channels without transparency: 1 or 3."""
        channels = self.pixels.shape[-1]
        return channels - (channels in (2, 4))


def read_picture(path: Path) -> PictureFile:
    """Decode a file, keeping what Pillow's RGB would lose. Raises UnreadableImageError with the reason."""
    with decoded(path) as image:
        pixels = _pixels(image, path)
        return PictureFile(
            # Shape: a dimension for the channels also where there is but one.
            pixels=pixels.reshape(*pixels.shape[:2], -1),
            format=_written_format(image.format),
            exif=_exif(image),
            icc_profile=image.info.get("icc_profile") or b"" if image.mode in KEPT_MODES else b"",
            notes=tuple(_notes(image, pixels)),
        )


def write_picture(picture: PictureFile, path: Path) -> None:
    """Writes the picture; `path` has the suffix of its format. Raises OSError where that fails."""
    if picture.pixels.dtype == np.uint16 and picture.pixels.shape[-1] > 1:
        write_deep(picture.pixels, path, picture.format, picture.exif, picture.icc_profile)
    else:
        kept = {"exif": picture.exif, "icc_profile": picture.icc_profile}
        options = SAVE_OPTIONS[picture.format] | {name: value for name, value in kept.items() if value}
        as_image(picture.pixels).save(path, picture.format, **options)


def as_image(pixels: np.ndarray) -> Image.Image:
    """(H, W, C) uint8, or uint16 with C = 1 -> Pillow's image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def written_name(name: str, format: str | None) -> str:
    """The file name under which a picture of this (Pillow's) format is written."""
    return name if format == "MPO" or _written_format(format) == format else f"{name}.png"


def refusal(format: str, width: int, height: int) -> str | None:
    """Why a format cannot hold a picture of this size; None where it can."""
    longest = LONGEST_SIDE.get(format)
    if longest is None or max(width, height) <= longest:
        return None
    return f"its answer of {width} x {height} pixels is more than a {format} file holds, {longest} along a side"


def _written_format(format: str | None) -> str:
    if format == "MPO":  # a JPEG with further pictures behind the first
        return "JPEG"
    return format if format in SAVE_OPTIONS else "PNG"


def _notes(image: Image.Image, pixels: np.ndarray) -> Iterator[str]:
    if (count := getattr(image, "n_frames", 1)) > 1:
        yield f"the first of {count} pictures"
    if image.format not in (*SAVE_OPTIONS, "MPO"):
        yield f"{image.format} became PNG"
    if image.mode in ("P", "PA"):
        yield "palette became full colour"
    elif image.mode not in KEPT_MODES:
        yield f"{image.mode} became RGB"
    if (
        image.format == "TIFF"
        and pixels.dtype == np.uint16
        and pixels.ndim == 3
        and image.getexif().get_ifd(ExifTags.IFD.Exif)
    ):
        yield "of its EXIF, what the camera was set to is lost"


def _pixels(image: Image.Image, path: Path) -> np.ndarray:
    """(H, W) or (H, W, C), the channels in the order of `PictureFile`."""
    if image.mode == "F":
        raise UnreadableImageError("its pixels are floats; pictures of 8 and 16 bits can be restored")
    if image.mode.startswith("I"):
        return _deep_grey(np.asarray(image))
    if image.mode in KEPT_MODES and is_deep(image, path):
        return read_deep(image, path)
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        return np.asarray(_by_profile(image))
    base = "L" if image.mode in GREY_MODES else "RGB"
    target = f"{base}A" if image.has_transparency_data else base
    return np.asarray(image if image.mode == target else image.convert(target))


def _by_profile(image: Image.Image) -> Image.Image:
    profile = io.BytesIO(image.info["icc_profile"])
    try:
        screen = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(profile), screen, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # a profile that is damaged or of other colours
        return image.convert("RGB")
    return converted or image.convert("RGB")


def _deep_grey(grey: np.ndarray) -> np.ndarray:
    if grey.min() < 0 or grey.max() > np.iinfo(np.uint16).max:
        raise UnreadableImageError("its pixels have 32 bits; pictures of 8 and 16 bits can be restored")
    return grey.astype(np.uint16)


def _exif(image: Image.Image) -> bytes:
    if stored := image.info.get("exif"):
        return stored
    found, kept = image.getexif(), Image.Exif()
    for tag in DESCRIPTIVE_TAGS:
        if tag in found:
            kept[tag] = found[tag]
    for folder in TAG_FOLDERS:
        if tags := found.get_ifd(folder):
            kept[folder] = tags
    return kept.tobytes() if kept else b""
