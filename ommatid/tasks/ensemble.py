"""Self-ensemble: the mean of the answers to a picture turned and flipped in all eight ways (arXiv 1707.02921)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from torch import Tensor

Restore = Callable[[Tensor], Tensor]


def self_ensemble(restore: Restore) -> Restore:
    """Wraps (B, C, h, w) -> (B, C', scale h, scale w) of any size; takes eight times as long."""

    def restored(image: Tensor) -> Tensor:
        ways = product(range(4), (False, True))
        return sum((_undone(restore(_turned(image, *way)), *way) for way in ways), image.new_zeros(())) / 8

    return restored


def _turned(image: Tensor, turn: int, flip: bool) -> Tensor:
    turned = image.rot90(turn, (-2, -1))
    return turned.flip(-1) if flip else turned


def _undone(answer: Tensor, turn: int, flip: bool) -> Tensor:
    return (answer.flip(-1) if flip else answer).rot90(-turn, (-2, -1))
