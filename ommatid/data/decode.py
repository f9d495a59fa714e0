"""From a file to upright 8-bit RGB, whatever the file holds."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ommatid.data.errors import UnreadableImageError

MAX_PIXELS = 178_956_970
"""Images with more pixels than this are refused from their header: the size at which Pillow raises its own error."""


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels as stored, from the file's header alone. Raises UnreadableImageError."""
    with _opened(path) as image:
        return image.size


def read_image(path: Path) -> Image.Image:
    """Decode a file to an RGB image, upright by its EXIF orientation. Raises UnreadableImageError with the reason."""
    with decoded(path) as image:
        return to_rgb(upright(image))


@contextmanager
def decoded(path: Path) -> Iterator[Image.Image]:
    """The image as stored, for a block that reads its pixels. What fails in there is an UnreadableImageError too."""
    with _opened(path) as image:
        try:
            image.load()
            yield image
        except UnreadableImageError:
            raise
        except Exception as error:  # the bytes are untrusted, and Pillow's decoders raise whatever they run into
            raise UnreadableImageError(f"truncated or damaged: {_one_line(error)}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to 8-bit RGB: transparency goes over white, deeper greys are scaled to 8 bit and never clipped."""
    if image.mode.startswith(("I", "F")):
        return _grey_to_8_bit(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _grey_to_8_bit(image: Image.Image) -> Image.Image:
    """Integer greys are 16 bit; floats are 0..1, 8 or 16 bit, the smallest that holds them; else lowest to highest."""
    grey = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    low, high = grey.min(), grey.max()
    ranges = (65535.0,) if image.mode.startswith("I") else (1.0, 255.0, 65535.0)
    full = next((top for top in ranges if low >= 0 and high <= top), None)
    scaled = grey * (255 / full) if full else (grey - low) * (255 / (high - low or 1))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block says nothing of the orientation, and the pixels are still good
        return image


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image with its header read and judged, its pixels not yet decoded."""
    try:
        _check_file(path)
        image = Image.open(path)
    except UnreadableImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError("not an image") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"too large: more than {MAX_PIXELS / 1e6:.0f} million pixels") from error
    except Exception as error:  # a broken header, as a broken body, may raise anything
        raise UnreadableImageError(_one_line(error)) from error
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UnreadableImageError(
                f"too large: {width} x {height}, more than {MAX_PIXELS / 1e6:.0f} million pixels"
            )
        yield image


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UnreadableImageError("no such file") from None
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
        raise UnreadableImageError("not a regular file")
    if status.st_size == 0:
        raise UnreadableImageError("empty: 0 bytes")


def _one_line(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split()) or type(error).__name__
