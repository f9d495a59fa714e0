"""The embedded pictures: photographs that come with scikit-image and scikit-learn, needing no file and no network."""

from __future__ import annotations

from functools import cache

import numpy as np

from ommatid.data.record import Listing, Record

JUDGED_BY = ("astronaut", "chelsea", "flower")
"""The validation part, the same for everyone. None of them shows what another photograph shows."""


def list_photographs() -> Listing:
    """Fourteen photographs of 300 to 741 pixels a side, five of them grey, with a split of their own."""
    return Listing(
        [
            Record(f"photographs/{name}", "", "val" if name in JUDGED_BY else "train", pixels)
            for name, pixels in photographs().items()
        ]
    )


@cache
def photographs() -> dict[str, np.ndarray]:
    """Each (H, W, 3) uint8, by name. They are read once: do not write to them."""
    # scikit-image fetches some of its pictures from a network; these lie in the package itself.
    from skimage import data
    from sklearn.datasets import load_sample_image

    left, right, _ = data.stereo_motorcycle()
    pictures = {
        "astronaut": data.astronaut(),
        "brick": data.brick(),
        "camera": data.camera(),
        "chelsea": data.chelsea(),
        "china": load_sample_image("china.jpg"),
        "coffee": data.coffee(),
        "coins": data.coins(),
        "flower": load_sample_image("flower.jpg"),
        "grass": data.grass(),
        "gravel": data.gravel(),
        "immunohistochemistry": data.immunohistochemistry(),
        "motorcycle-left": left,
        "motorcycle-right": right,
        "rocket": data.rocket(),
    }
    return {name: _rgb(pixels) for name, pixels in pictures.items()}


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
