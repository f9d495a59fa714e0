"""Windows shifted against the map's corner: those at the end hold what was cut off at the start."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from math import prod

import torch
from torch import Tensor

Mix = Callable[[Tensor, Tensor | None], Tensor]


def mix_in_windows(mix: Mix, features: Tensor, window: tuple[int, ...], shift: tuple[int, ...] = (0, 0)) -> Tensor:
    """Mixes the tokens of each window: (B, H, W, ...) -> (B, H, W, C), or the same with more axes than two.

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
    return _mix_along(mix, features, window, shift, ())


def _mix_along(
    mix: Mix, features: Tensor, window: tuple[int, ...], shift: tuple[int, ...], cut: tuple[int, ...]
) -> Tensor:
    """The axes up to `cut` are split already, by how much; the next one is split here."""
    axis = len(cut)
    if axis == len(window):
        return _mix_part(mix, features, window, foreign_pairs(window, cut, features.device))
    side, step = window[axis], shift[axis]
    parts = [
        _mix_along(mix, part, window, shift, (*cut, length)) for part, length in _split(features, side, step, axis + 1)
    ]
    return _join(parts, side, step, axis + 1)


def foreign_pairs(window: tuple[int, ...], cut: tuple[int, ...], device: torch.device | None = None) -> Tensor | None:
    """Which pairs of a window's tokens are no neighbours because its last rows and columns come from elsewhere.

    Args:
        window: rows and columns.
        cut: how many of the last rows, and of the last columns, come from the other end of the map.

    Returns:
        (N, N) booleans for the N tokens of the window, or None where nothing is cut.
    """
    if not any(cut):
        return None
    origin = torch.zeros(1, dtype=torch.int32, device=device)
    for side, last in zip(window, cut, strict=True):
        foreign = torch.arange(side, device=device) >= side - last
        origin = (2 * origin[:, None] + foreign.int()).flatten()
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


def _mix_part(mix: Mix, features: Tensor, window: tuple[int, ...], foreign: Tensor | None) -> Tensor:
    """Windows row-major, as are the tokens in them. Sizes are named, not -1: an export would carry formulas of them."""
    axes = len(window)
    batch, sides = features.shape[0], features.shape[1 : 1 + axes]
    counts = [side // length for side, length in zip(sides, window, strict=True)]
    grid = features.view(batch, *chain(*zip(counts, window, strict=True)), *features.shape[1 + axes :])
    across, inside = range(1, 2 * axes, 2), range(2, 2 * axes + 1, 2)
    windows = grid.permute(0, *across, *inside, *range(2 * axes + 1, grid.dim()))
    mixed = mix(windows.reshape(batch * prod(counts), prod(window), *features.shape[1 + axes :]), foreign)
    back = chain(*zip(range(1, axes + 1), range(axes + 1, 2 * axes + 1), strict=True))
    restored = mixed.reshape(batch, *counts, *window, mixed.shape[-1]).permute(0, *back, 2 * axes + 1)
    return restored.reshape(batch, *sides, mixed.shape[-1])
