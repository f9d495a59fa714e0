"""Usual values: what a part is made with where nobody says anything, by the names of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ommatid.nn.parts.part import Place, Rule

LARGEST_FIXED = 14
"""Side of the windows in which mixers of one fixed map size work, where the map is not smaller."""


def heads(place: Place, values: Mapping[str, Any]) -> int:
    """The divisor of C that comes nearest to the wanted width of a head from above."""
    return _divisor(place.dim, place.dim // place.head_dim)


def even_heads(place: Place, values: Mapping[str, Any]) -> int:
    half = place.dim // 2
    return 2 * _divisor(half, max(place.dim // place.head_dim // 2, 1))


def _divisor(dim: int, most: int) -> int:
    return next(count for count in range(max(most, 1), 0, -1) if dim % count == 0)


def window(most: int) -> Rule:
    """A side of `most` tokens, or of the map where that is smaller."""
    return lambda place, values: min(most, max(place.size))


def odd_window(most: int) -> Rule:
    """The same for what has a centre: odd, and at least 3."""
    return lambda place, values: max(min(most, max(place.size) - 1 + max(place.size) % 2), 3)


def fixed_window(place: Place, values: Mapping[str, Any]) -> int:
    return min(LARGEST_FIXED, max(place.size))


def reduction(place: Place, values: Mapping[str, Any]) -> int:
    """What leaves about 7 tokens a side, as in PVT: 8, 4, 2, 1 in the stages of an image of 224 pixels."""
    return max(ratio for ratio in (1, 2, 4, 8) if ratio == 1 or min(place.size) >= 7 * ratio)


def constant(value: Any) -> Rule:
    return lambda place, values: value


def share(factor: float, multiple: int = 1) -> Rule:
    """A width that is a share of C, down to a multiple."""
    return lambda place, values: max(int(factor * place.dim) // multiple * multiple, multiple)


MIXERS: dict[str, Rule] = {
    "dim": lambda place, values: place.dim,
    "heads": heads,
    "head_dim": lambda place, values: max(place.dim // values.get("heads", 1), 1),
    "key_dim": constant(16),
    "window_size": window(7),
    "kernel_size": odd_window(7),
    "size": lambda place, values: place.size,
    "max_length": lambda place, values: place.size[0] * place.size[1],
    "pretrain_size": lambda place, values: (max(place.size[0], 2), max(place.size[1], 2)),
    "window": lambda place, values: (min(7, max(place.size)),) * 2,
    "grid": lambda place, values: place.size,
    "block_size": window(8),
    "halo_size": lambda place, values: max(values.get("block_size", values.get("window_size", 4)) // 4, 1),
    "group_size": window(7),
    "cell_size": lambda place, values: 2 if min(place.size) < 16 else 4,
    "regions": window(7),
    "topk": lambda place, values: min(4, values["regions"] ** 2),
    "ratio": reduction,
    "reduction": reduction,
    "stripe_width": window(7),
    "hidden": share(1.0, 2),
    "inner_dim": share(1.0),
    "mlp_dim": share(1.0),
    "partial_dim": share(0.25, 4),
    "groups": heads,
    "depthwise": constant(True),
    "levels": constant(1),
    "order": lambda place, values: max(n for n in range(1, 4) if n == 1 or place.dim % 2 ** (n - 1) == 0),
    "raft": constant(2),
    "shifts": constant((-1, 0, 1)),
    "kernel_sizes": constant((3, 5, 7)),
    "spectrum": lambda place, values: (place.size[0], place.size[1] // 2 + 1),
    "vertical": constant(True),
    "mixer": constant("attention"),
}
"""For token mixers. The order does not matter: a rule sees the parameters that come before its own in a signature."""

CHANNEL_MIXERS: dict[str, Rule] = {
    "dim": MIXERS["dim"],
    "in_dim": MIXERS["dim"],
    "hidden": lambda place, values: max(int(place.ratio * place.dim) // 2 * 2, 2),
    "depthwise": constant(True),
}
