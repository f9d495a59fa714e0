"""How parts refuse a map that they cannot take."""

from __future__ import annotations

from torch import Tensor


def require_map(fits: bool, features: Tensor, allowed: str) -> None:
    """Raises the ValueError that names the size of a map (B, H, W, C) and what is allowed, unless `fits`."""
    if not fits:
        size = (features.shape[1], features.shape[2])
        raise ValueError(f"map size = {size} is not possible: allowed is {allowed}")
