"""How long one transformer block takes, by its sizes: measured at some, interpolated between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor


class LatencyTable:
    """Multilinear interpolation of times over block sizes (embedding, heads, QK dims, V dims, MLP units).

    axes: the sizes that were measured, rising, for each of the five. times: one for each combination.
    """

    def __init__(self, axes: Sequence[Sequence[float]], times: Tensor) -> None:
        self._at = RegularGridInterpolator([np.asarray(axis, float) for axis in axes], times.double().numpy())

    def __call__(self, sizes: Sequence[float]) -> float:
        """Raises ValueError for sizes outside of the table."""
        return float(self._at(np.asarray(sizes, float))[0])
