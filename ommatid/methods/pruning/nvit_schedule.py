"""NViT's schedule: one ranking of all kinds of units, less the time that each saves, and gates that close for good.

"Global Vision Transformer Pruning with Hessian-Aware Saliency" (arXiv 2110.04869).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ommatid.methods.pruning.nvit_saliency import KINDS

CHUNKS = {"emb": 16, "head": 2, "qk": 8, "v": 8, "mlp": 16}
"""How many units of each kind go at a time."""

FEWEST = {"head": 2, "qk": 8, "v": 8, "mlp": 16}
"""Units of a block, down to which each kind gets credit for the time it saves."""

Latency = Callable[[Sequence[float]], float]
"""Sizes (embedding, heads, QK dims, V dims, MLP units) -> time of one block."""


@dataclass
class NViTSchedule:
    """Closes gates step by step. Units of a kind are layers by units, (blocks, units); "emb" is one layer, (1, E).

    latency: of one block. latency_regularization: how much saliency a unit of time is worth. momentum: of the
    saliencies' moving average. prune_per_iteration, count_unit: each iteration aims at so many units more, counted in
    chunks of `count_unit`. prune_max: at most so many units.
    """

    latency: Latency
    latency_regularization: float
    momentum: float = 0.9
    prune_per_iteration: int = 32
    count_unit: int = 16
    prune_max: int = 39000
    gates: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.iteration = 0
        self._average: dict[str, Tensor] = {}

    def step(self, saliencies: Mapping[str, Tensor]) -> float:
        """One iteration, from the mean saliency of each unit since the last one.

        Returns:
            The time of all blocks afterwards, counted as the reference does: with the embedding as it was before.
        """
        for kind in KINDS:
            new = saliencies[kind].double()
            old = self._average.get(kind, new)
            self._average[kind] = self.momentum * old + (1 - self.momentum) * new
            self.gates.setdefault(kind, torch.ones_like(new))
        before = self.sizes()
        worth = {kind: self._average[kind] * self.gates[kind] - self._saved(kind, before) for kind in KINDS}
        self._close(worth)
        self.iteration += 1
        return sum(self.latency((before[0][0], *after[1:])) for after in self.sizes())

    def sizes(self) -> list[tuple[float, ...]]:
        """Open gates of each block: (embedding, heads, QK dims, V dims, MLP units)."""
        embedding = float(self.gates["emb"].sum())
        inner = torch.stack([self.gates[kind].sum(1) for kind in KINDS[1:]], 1)
        return [(embedding, *row) for row in inner.tolist()]

    def _saved(self, kind: str, sizes: Sequence[tuple[float, ...]]) -> Tensor:
        """What the time saved by one unit less is worth, (blocks, 1); in the embedding, over all blocks."""
        axis = KINDS.index(kind)
        saved = []
        for size in sizes:
            fewer = [length - (place == axis) for place, length in enumerate(size)]
            worthwhile = kind == "emb" or size[axis] > FEWEST[kind]
            saved.append(self.latency(size) - self.latency(fewer) if worthwhile else 0.0)
        values = torch.tensor(saved, dtype=torch.float64)[:, None]
        return self.latency_regularization * (values.sum(0, keepdim=True) if kind == "emb" else values)

    def _close(self, worth: Mapping[str, Tensor]) -> None:
        layers = [(gates, list(_chunks(worth[kind][row], CHUNKS[kind]))) for kind, row, gates in self._layers()]
        values = torch.stack([value for _, chunks in layers for value, _ in chunks]).sort().values
        aim = min(self.iteration * self.prune_per_iteration, self.prune_max) // self.count_unit - 1
        threshold = values[max(0, min(aim, len(values) - 1))]
        for gates, chunks in layers:
            for value, units in chunks[:-1]:  # one chunk of a layer always stays
                if value <= threshold:
                    _close_units(gates, units)

    def _layers(self) -> Iterator[tuple[str, int, Tensor]]:
        for kind in KINDS:
            for row, gates in enumerate(self.gates[kind]):
                yield kind, row, gates


def _chunks(worth: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(sum, units) of so many units at a time, the least worth first."""
    ordered, units = worth.sort(stable=True)
    return zip((part.sum() for part in ordered.split(size)), units.split(size), strict=True)


def _close_units(gates: Tensor, units: Tensor) -> None:
    """In place; one gate of a layer stays open."""
    for unit in units.tolist():
        if gates.sum() > 1:
            gates[unit] = 0
