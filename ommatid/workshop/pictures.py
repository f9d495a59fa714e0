"""Uploaded files as images, and maps of numbers as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from ommatid.data.decode import image_size, read_image
from ommatid.data.errors import UnreadableImageError

MAX_MEGABYTES = 20
MAX_PIXELS = 40_000_000
"""Of an upload. More is refused from the file's header, before any pixel is decoded."""

SHOWN = 448
"""Side in pixels that small maps are enlarged to."""


def uploaded(path: str | None) -> Image.Image:
    """The image in an uploaded file. Raises ValueError, in words for people, where there is none."""
    if path is None:
        raise ValueError("drop a picture first")
    file = Path(path)
    try:
        if file.stat().st_size > MAX_MEGABYTES * 2**20:
            raise UnreadableImageError(f"larger than {MAX_MEGABYTES} MB")
        width, height = image_size(file)
        if width * height > MAX_PIXELS:
            raise UnreadableImageError(f"{width} x {height} pixels, more than {MAX_PIXELS / 1e6:.0f} million")
        return read_image(file)
    except UnreadableImageError as error:
        raise ValueError(f"{file.name} can't be used: {error}") from None


def heat(strength: Tensor, under: Image.Image | None = None) -> Image.Image:
    """A map (H, W) of values from 0 to 1 in colours; blended over a picture where one is given."""
    # Of gradients a few pixels have most: the square root lets the others be seen.
    colours = colormaps["magma"](np.sqrt(strength.detach().cpu().numpy()))[..., :3]
    picture = Image.fromarray((255 * colours).astype(np.uint8)).resize((SHOWN, SHOWN), Image.Resampling.BILINEAR)
    return picture if under is None else Image.blend(under.convert("RGB").resize(picture.size), picture, 0.6)


def channel_tiles(features: Tensor, most: int = 16) -> Image.Image:
    """The channels of a map (C, H, W) that vary most, side by side, each from its least to its greatest value."""
    spread = features.flatten(1).std(1, correction=0)
    chosen = features[spread.argsort(descending=True)[:most]]
    low, high = chosen.amin((1, 2), keepdim=True), chosen.amax((1, 2), keepdim=True)
    grey = (255 * (chosen - low) / (high - low).clamp_min(1e-12)).byte().cpu().numpy()
    side = SHOWN // 4
    sheet = Image.new("L", (4 * side, -(-len(grey) // 4) * side))
    for number, tile in enumerate(grey):
        place = (number % 4 * side, number // 4 * side)
        sheet.paste(Image.fromarray(tile).resize((side, side), Image.Resampling.NEAREST), place)
    return sheet
