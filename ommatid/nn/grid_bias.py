"""A position bias from log-spaced offsets between the tokens of a map and the cells of a coarser one."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Width of the hidden layer.
HIDDEN = 512


class GridPositionBias(nn.Module):
    """What a small network makes of the offset of every (query, key) pair; two sizes -> (heads, H W, h w).

    TransNeXt (arXiv 2311.17132). Keys lie on the map, or in the middles of the cells that it was pooled to. Offsets are
    measured in maps of the pre-training's size, so that larger maps only add offsets. `deploy()` computes the bias of
    `size` once and for all.

    Args:
        heads: number of heads.
        size: rows and columns (H, W) of the map that `deploy()` prepares for.
        key_size: rows and columns (h, w) of the keys, the same.
        pretrain_size: rows and columns of the map in pre-training, at least 2.
    """

    def __init__(
        self, heads: int, size: tuple[int, int], key_size: tuple[int, int], pretrain_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.sizes = (size, key_size)
        self.pretrain_size = pretrain_size
        self.network = nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, heads))
        self.constant: Tensor | None
        self.register_buffer("constant", None, persistent=False)

    def forward(self, size: tuple[int, int], key_size: tuple[int, int]) -> Tensor:
        if self.constant is not None and (size, key_size) == self.sizes:
            return self.constant
        axes = zip(size, key_size, self.pretrain_size, strict=True)
        rows, columns = (log_spaced_axis(*axis) for axis in axes)
        like = next(self.network.parameters())
        offsets = [torch.as_tensor(axis.offsets, device=like.device, dtype=like.dtype) for axis in (rows, columns)]
        table = self.network(torch.cartesian_prod(*offsets)).unflatten(0, [len(axis) for axis in offsets])
        down, across = (torch.as_tensor(axis.places, device=like.device) for axis in (rows, columns))
        pairs = table.index_select(0, down.flatten()).index_select(1, across.flatten())
        pairs = pairs.unflatten(1, across.shape).unflatten(0, down.shape)  # (H, h, W, w, heads)
        return pairs.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)

    def deploy_(self) -> None:
        self.constant = self(*self.sizes)


class LogSpacedAxis(NamedTuple):
    """The different offsets of one axis, and which of them each pair has."""

    offsets: NDArray[np.float64]  # (offsets,)
    places: NDArray[np.int64]  # (queries, keys)


# NumPy tables and not tensors: a cached tensor would stay a fake one when the first call is a torch.export trace.
@lru_cache(maxsize=64)
def log_spaced_axis(length: int, keys: int, pretrain_length: int) -> LogSpacedAxis:
    """Offsets of every query from every key along an axis, log-spaced, 1 for an offset of pretrain_length - 1.

    Keys are the adaptive average of the positions in their cell, as in `torch.nn.functional.adaptive_avg_pool1d`.
    """
    cell = np.arange(keys)
    first, last = cell * length // keys, -(-(cell + 1) * length // keys) - 1
    distance = np.arange(length)[:, None] - (first + last) / 2
    different, places = np.unique(distance, return_inverse=True)
    scaled = 8 * different / (pretrain_length - 1)
    return LogSpacedAxis(np.sign(scaled) * np.log2(np.abs(scaled) + 1) / 3, places.reshape(distance.shape))
