"""Networks written as a list of rows [from, kind, arguments...]: each row is a layer, fed by rows before it.

`from` is the number of an earlier row, -1 for the one just before (the image, for the first), or a list of them.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.config import coerce, require
from ommatid.nn.conv import ConvNorm
from ommatid.nn.norm import BatchNorm2d
from ommatid.nn.pool import MaxPool2d

Graph = tuple[tuple[Any, ...], ...]
"""Rows as configs have them."""

IMAGE = -1
"""Stands for the image among the sources of a row."""


class Row(NamedTuple):
    """sources: numbers of the rows that feed it, `IMAGE` for the image."""

    sources: tuple[int, ...]
    kind: str
    arguments: tuple[Any, ...]


class Made(NamedTuple):
    """A layer, the width of what it gives, and how much coarser that map is than the one it was given."""

    layer: nn.Module
    dim: int
    stride: Fraction = Fraction(1)


@dataclass(frozen=True)
class Scaling:
    """How widths and repeats of a list become those of a model.

    A width that equals the number of classes is left as it is: a quirk of the published code.
    """

    width: float
    max_channels: int
    num_classes: int
    depth: float = 1.0

    def dim(self, channels: int) -> int:
        return channels if channels == self.num_classes else self.hidden(channels)

    def hidden(self, channels: int) -> int:
        return 8 * math.ceil(min(channels, self.max_channels) * self.width / 8)

    def repeats(self, count: int) -> int:
        return max(round(count * self.depth), 1) if count > 1 else count


Maker = Callable[..., Made]
"""Makes the layer of a row, of the scaling, the widths of its inputs and its arguments by name."""


def canonical(graph: Sequence[Any]) -> Graph:
    """The rows with tuples for lists, so that a graph read from a file equals the one written.

    Raises:
        ValueError: a row is none, or its sources are no earlier rows.
    """
    rows = tuple(tuple(tuple(item) if isinstance(item, list) else item for item in row) for row in graph)
    require(bool(rows), "graph", graph, "at least one row")
    for index, row in enumerate(rows):
        whole = len(row) >= 2 and isinstance(row[1], str)
        require(whole, f"graph[{index}]", row, "a row [from, kind, arguments...]")
        sources = row[0] if isinstance(row[0], tuple) else (row[0],)
        earlier = bool(sources) and all(type(source) is int and -1 <= source < index for source in sources)
        require(earlier, f"graph[{index}] from", row[0], f"-1 or numbers of earlier rows, below {index}")
    return rows


def rows_of(graph: Graph) -> list[Row]:
    """The rows of a canonical graph, with -1 resolved."""
    found = []
    for index, (origin, kind, *arguments) in enumerate(graph):
        sources = origin if isinstance(origin, tuple) else (origin,)
        found.append(Row(tuple(index - 1 if one == -1 else one for one in sources), kind, tuple(arguments)))
    return found


class RowGraph(nn.Module):
    """Runs the rows in order: image (B, H, W, C) -> the maps (B, H_i, W_i, C_i) of those that are asked for.

    Args:
        rows: the rows.
        in_channels: C.
        makers: by kind.
        scaling: handed to the makers.

    Raises:
        ValueError: a kind is unknown, its arguments are not those it takes, or the maps that a row joins differ in
            resolution.

    Attributes:
        dims, strides: of the map of each row.
        multiple: sides of images must be multiples of it.
    """

    def __init__(self, rows: Sequence[Row], in_channels: int, makers: Mapping[str, Maker], scaling: Scaling) -> None:
        super().__init__()
        self.sources = [row.sources for row in rows]
        self.layers = nn.ModuleList()
        self.dims: list[int] = []
        self.strides: list[Fraction] = []
        for index, row in enumerate(rows):
            strides = {Fraction(1) if source == IMAGE else self.strides[source] for source in row.sources}
            require(len(strides) == 1, f"graph[{index}] from", list(row.sources), "rows of one resolution")
            dims = [in_channels if source == IMAGE else self.dims[source] for source in row.sources]
            made = make_row(index, row, dims, makers, scaling)
            self.layers.append(made.layer)
            self.dims.append(made.dim)
            self.strides.append(strides.pop() * made.stride)
        self.multiple = math.lcm(*(stride.numerator for stride in self.strides))

    def forward(self, image: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """`wanted`: numbers of rows; those that they do not depend on are not run."""
        read = self.read_by(wanted)
        last_reader = {source: index for index in read for source in self.sources[index]}
        maps = {IMAGE: image}
        for index in read:
            maps[index] = self.layers[index](*(maps[source] for source in self.sources[index]))
            for source in self.sources[index]:
                if last_reader[source] == index and source not in wanted:
                    maps.pop(source, None)
        return [maps[index] for index in wanted]

    def read_by(self, wanted: Sequence[int]) -> list[int]:
        """The wanted rows and all that they depend on, in order."""
        read = set(wanted)
        for index in reversed(range(len(self.layers))):
            if index in read:
                read |= set(self.sources[index])
        return sorted(read - {IMAGE})

    def unread_parameters(self, wanted: Sequence[int]) -> set[str]:
        """Names of the parameters of rows that the wanted ones do not depend on."""
        read = set(self.read_by(wanted))
        unread = [(index, layer) for index, layer in enumerate(self.layers) if index not in read]
        return {f"layers.{index}.{name}" for index, layer in unread for name, _ in layer.named_parameters()}

    def padded(self, image: Tensor) -> Tensor:
        """The image (B, C, H, W) with zeros at the bottom and right, up to sides that every row halves evenly."""
        height, width = image.shape[-2:]
        return F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple))


def make_row(index: int, row: Row, dims: list[int], makers: Mapping[str, Maker], scaling: Scaling) -> Made:
    """The layer of one row. Raises ValueError as `RowGraph` does."""
    require(row.kind in makers, f"graph[{index}] kind", row.kind, ", ".join(makers))
    maker = makers[row.kind]
    single = len(dims) == 1 or maker is concat
    require(single, f"graph[{index}] from", list(row.sources), f"one row, for {row.kind!r}")
    names = list(inspect.signature(maker).parameters)[2:]
    told = f"[from, {', '.join([repr(row.kind), *names])}]"
    require(len(row.arguments) == len(names), f"graph[{index}]", list(row), told)
    kinds = typing.get_type_hints(maker)
    values = {}
    for name, value in zip(names, row.arguments, strict=True):
        values[name] = coerce(f"graph[{index}] {name}", value, kinds[name])
        positive = not isinstance(values[name], int) or isinstance(values[name], bool) or values[name] > 0
        require(positive, f"graph[{index}] {name}", value, "a positive integer")
    return maker(scaling, dims, **values)


class Concat(nn.Module):
    """Maps (B, H, W, C_i) side by side: (B, H, W, sum of C_i)."""

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat(maps, dim=-1)


class Doubled(nn.Module):
    """Every cell becomes four: (B, H, W, C) -> (B, 2 H, 2 W, C)."""

    def forward(self, features: Tensor) -> Tensor:
        return F.interpolate(features.permute(0, 3, 1, 2), scale_factor=2, mode="nearest").permute(0, 2, 3, 1)


class SpatialPyramidPooling(nn.Module):
    """Maxima over windows of three sizes, one pool chained behind the other: (B, H, W, C_in) -> (B, H, W, C).

    "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition" (arXiv 1406.4729), in the fast form
    of the YOLO family. Cost: H W (C_in^2 / 2 + 2 C_in C) multiply-adds.

    Args:
        in_dim: C_in.
        dim: C.
        kernel_size: of the pools, odd.
    """

    def __init__(self, in_dim: int, dim: int, kernel_size: int) -> None:
        super().__init__()
        hidden = in_dim // 2
        self.reduce = ConvNorm(in_dim, hidden, 1, act=nn.SiLU())
        self.pool = MaxPool2d(kernel_size, stride=1, padding=kernel_size // 2)
        self.proj = ConvNorm(4 * hidden, dim, 1, act=nn.SiLU())

    def forward(self, features: Tensor) -> Tensor:
        maps = [self.reduce(features)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.proj(torch.cat(maps, dim=-1))


def concat(scaling: Scaling, dims: list[int]) -> Made:
    return Made(Concat(), sum(dims))


def upsample(scaling: Scaling, dims: list[int]) -> Made:
    return Made(Doubled(), dims[0], Fraction(1, 2))


def sppf(scaling: Scaling, dims: list[int], channels: int, kernel_size: int) -> Made:
    require(kernel_size % 2 == 1, "kernel_size", kernel_size, "an odd number")
    dim = scaling.dim(channels)
    return Made(SpatialPyramidPooling(dims[0], dim, kernel_size), dim)


def set_batch_norms_(model: nn.Module, *, eps: float, momentum: float) -> None:
    """Gives all batch norms the constants that detectors are published with."""
    for norm in (module for module in model.modules() if isinstance(module, BatchNorm2d)):
        norm.eps, norm.momentum = eps, momentum


DETECTOR_NORMS = {"eps": 1e-3, "momentum": 0.03}
