"""How parts refuse what they cannot take."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from torch import Tensor


def suggest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'a' or 'b'?)"` for close matches, otherwise an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def require_map(fits: bool, features: Tensor, allowed: str) -> None:
    """Raises the ValueError that names the size of a map (B, H, W, C) and what is allowed, unless `fits`."""
    if not fits:
        size = (features.shape[1], features.shape[2])
        raise ValueError(f"map size = {size} is not possible: allowed is {allowed}")


def require_length(fits: bool, length: int, allowed: str) -> None:
    """Raises the ValueError that names the length of a sequence and what is allowed, unless it `fits`."""
    if not fits:
        raise ValueError(f"sequence length = {length} is not possible: allowed is {allowed}")
