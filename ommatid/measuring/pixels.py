"""The speed of networks whose answer is a picture."""

from __future__ import annotations

import math

from ommatid.measuring.measure import Measurement

PICTURE_SIDE = 128
"""Side in pixels of the picture to restore, where none is named: large for every window, small enough to wait for."""


def megapixels_per_second(found: Measurement, scale: int) -> float:
    """Millions of pixels of the answer, which has `scale` times the picture's sides, made in a second."""
    return found.throughput * math.prod(found.size) * scale**2 / 1e6
