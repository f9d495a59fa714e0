"""Windows shifted against the map's corner: those at the end hold what was cut off at the start."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ommatid.ops.windows import merge, partition

Mix = Callable[[Tensor, Tensor | None], Tensor]


def mix_in_windows(mix: Mix, features: Tensor, window: tuple[int, int], shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Mixes the tokens of each window: (B, H, W, ...) -> (B, H, W, C).

    The last row and column of shifted windows go around the border, so they hold tokens that are no neighbours. These
    windows are mixed apart from the others: one mask of a single window serves all, however large the map is, and the
    others need none.

    Args:
        mix: takes windows of N tokens, (n, N, ...), and which pairs of tokens are no neighbours, (N, N) booleans or
            None for no pair; gives (n, N, C).
        features: H and W are multiples of the window's sides.
        window: rows and columns.
        shift: of the windows against the corner, down and across, less than the window's sides.
    """
    strips = []
    for strip, down in _split(features, window[0], shift[0], 1):
        parts = [
            _mix_part(mix, part, window, foreign_pairs(window, (down, across), features.device))
            for part, across in _split(strip, window[1], shift[1], 2)
        ]
        strips.append(_join(parts, window[1], shift[1], 2))
    return _join(strips, window[0], shift[0], 1)


def foreign_pairs(window: tuple[int, int], cut: tuple[int, int], device: torch.device | None = None) -> Tensor | None:
    """Which pairs of a window's tokens are no neighbours because its last rows and columns come from elsewhere.

    Args:
        window: rows and columns.
        cut: how many of the last rows, and of the last columns, come from the other end of the map.

    Returns:
        (N, N) booleans for the N tokens of the window, or None where nothing is cut.
    """
    if cut == (0, 0):
        return None
    down, across = (torch.arange(side, device=device) >= side - last for side, last in zip(window, cut, strict=True))
    origin = (2 * down[:, None] + across[None, :].int()).flatten()
    return origin[:, None] != origin[None, :]


def _split(features: Tensor, side: int, shift: int, axis: int) -> list[tuple[Tensor, int]]:
    """What whole windows cover, and the window around the border, each with how much of it was cut off at the start."""
    if not shift:
        return [(features, 0)]
    length = features.shape[axis]
    start, end = features.narrow(axis, 0, shift), features.narrow(axis, length - side + shift, side - shift)
    around = (torch.cat([end, start], axis), shift)
    return [around] if length == side else [(features.narrow(axis, shift, length - side), 0), around]


def _join(parts: list[Tensor], side: int, shift: int, axis: int) -> Tensor:
    """Undoes `_split`."""
    if not shift:
        return parts[0]
    *whole, around = parts
    end, start = around.split([side - shift, shift], axis)
    return torch.cat([start, *whole, end], axis)


def _mix_part(mix: Mix, features: Tensor, window: tuple[int, int], foreign: Tensor | None) -> Tensor:
    windows = partition(features, window)
    mixed = mix(windows.flatten(0, 1), foreign).unflatten(0, windows.shape[:2])
    return merge(mixed, window, (features.shape[1], features.shape[2]))
