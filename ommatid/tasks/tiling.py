"""A picture of any size through a restoration network, in overlapping tiles whose seams are blended.

A network's memory grows with what it sees at once; a tile bounds it. Where two tiles overlap, the answer of one fades
into that of the other, so that no seam shows. The outermost quarter of an overlap is never used: there a network sees
the tile's border instead of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ommatid.models.restorer import mirrored

OVERLAP = 8
"""A tile overlaps its neighbour by at least its side divided by this."""

BATCH_PIXELS = 256**2
"""Smaller tiles go through the network together, as many as have this many pixels in total."""

Restore = Callable[[Tensor], Tensor]
Read = Callable[[slice, slice], Tensor]


class Block(NamedTuple):
    """A finished part of the restored picture: `pixels` is (C, h, w) float, its upper left corner at (top, left)."""

    top: int
    left: int
    pixels: Tensor


@dataclass(frozen=True)
class Cuts:
    """How one axis of a picture is cut: tile `i` reads the pixels from `starts[i]` to `stops[i]`.

    side: the length of a tile; the last may be cut short by the picture's end. fade: the length of a seam.
    """

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    side: int
    fade: int

    @property
    def steps(self) -> tuple[int, ...]:
        """How far it is from a tile to the next, from the last to the end."""
        return tuple(next_start - start for start, next_start in pairwise((*self.starts, self.stops[-1])))

    @classmethod
    def of(cls, length: int, tile: int, multiple: int) -> Cuts:
        """The fewest tiles of at most `tile` pixels that cover `length`, equally long, all of whole multiples.

        They start at multiples too, so that a network that works in windows cuts the same windows as without tiles.
        """
        longest = max(2, -(-tile // multiple))
        overlap = -(-longest // OVERLAP)
        total = -(-length // multiple)
        count = max(1, -(-(total - overlap) // (longest - overlap)))
        side = -(-(total + (count - 1) * overlap) // count)
        starts = [multiple * (index * (total - side) // max(1, count - 1)) for index in range(count)]
        stops = [min(start + multiple * side, length) for start in starts]
        return cls(tuple(starts), tuple(stops), multiple * side, max(1, multiple * overlap // 2))

    def weights(self, tile: int, scale: int) -> Tensor:
        """What the restored pixels of a tile count for, along this axis. At every pixel the tiles' sum to one."""
        position = torch.arange(scale * self.starts[tile], scale * self.stops[tile]) + 0.5
        return self._begun(tile, position, scale) - self._begun(tile + 1, position, scale)

    def _begun(self, tile: int, position: Tensor, scale: int) -> Tensor:
        """How far the picture has gone over to a tile: 0 before its seam with the one before, 1 after."""
        if tile in (0, len(self.starts)):
            return torch.full_like(position, float(tile == 0))
        middle = scale * (self.starts[tile] + self.stops[tile - 1]) / 2
        rise = ((position - middle) / (scale * self.fade) + 0.5).clamp(0, 1)
        return (1 - torch.cos(math.pi * rise)) / 2


class OverlapAdd:
    """Adds up parts that follow one another along `dim` and overlap; gives what no later part reaches any more."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.rest: Tensor | None = None

    def __call__(self, part: Tensor, step: int) -> Tensor:
        """`part`, to which what came before is added, up to `step`, where the next part begins."""
        if self.rest is not None:
            part.narrow(self.dim, 0, self.rest.shape[self.dim]).add_(self.rest)
        # A copy, because a view would keep all of the part in memory.
        self.rest = part.narrow(self.dim, step, part.shape[self.dim] - step).clone()
        return part.narrow(self.dim, 0, step)


def restore_in_tiles(
    restore: Restore, read: Read, size: tuple[int, int], *, scale: int, tile: int, multiple: tuple[int, int] = (1, 1)
) -> Iterator[Block]:
    """Restores a picture tile by tile; the blocks that are yielded cover the answer, each pixel once.

    Besides a few tiles, only the overlap with the row of tiles above is in memory. A network that looks no further
    than a quarter of the overlap gives what it would have given for the whole picture.

    Args:
        restore: (B, C, h, w) -> (B, C', scale h, scale w), on the CPU.
        read: gives (C, h, w), the picture's pixels in these rows and columns.
        size: height and width of the picture.
        tile: longest side of a tile, in pixels of the picture; rounded up to the multiple, and to at least two of it.
        multiple: what the sides of tiles are multiples of; at its end the picture is mirrored where it is none.
    """
    rows, columns = (Cuts.of(length, tile, step) for length, step in zip(size, multiple, strict=True))
    column_weights = [columns.weights(column, scale) for column in range(len(columns.starts))]
    vertical = [OverlapAdd(dim=1) for _ in columns.starts]
    for row, (top, bottom) in enumerate(zip(rows.starts, rows.stops, strict=True)):
        row_weights, horizontal = rows.weights(row, scale), OverlapAdd(dim=2)
        tiles = (read(slice(top, bottom), slice(*ends)) for ends in zip(columns.starts, columns.stops, strict=True))
        for column, answer in enumerate(_restored(restore, tiles, (rows.side, columns.side), scale)):
            weighted = answer * row_weights[:, None] * column_weights[column]
            strip = horizontal(weighted, scale * columns.steps[column])
            yield Block(scale * top, scale * columns.starts[column], vertical[column](strip, scale * rows.steps[row]))


def _restored(restore: Restore, tiles: Iterator[Tensor], side: tuple[int, int], scale: int) -> Iterator[Tensor]:
    """Each tile's answer; tiles that the picture's end cut short are mirrored up to `side` and their answers cut."""
    together = max(1, BATCH_PIXELS // math.prod(side))
    while group := list(islice(tiles, together)):
        answers = restore(torch.cat([mirrored(tile[None], side) for tile in group]))
        for tile, answer in zip(group, answers, strict=True):
            height, width = tile.shape[-2:]
            yield answer[:, : scale * height, : scale * width]
