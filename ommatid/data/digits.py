"""The embedded data set: 1,797 real handwritten digits of 8x8 pixels, needing no file and no network."""

from __future__ import annotations

import numpy as np

from ommatid.data.record import Listing, Record


def list_digits() -> Listing:
    """Scikit-learn's copy of the UCI handwritten digits (Alpaydin and Kaynak, 1998), the ink bright on black."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    records = [
        Record(f"digits/{index:04d}", str(label), None, image)
        for index, (image, label) in enumerate(zip(pixels, digits.target, strict=True))
    ]
    return Listing(records, may_flip=False)
