"""One ranking of all units of a structure, the cheapest to lose first, and what stays when so much has gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ommatid.methods.pruning.structural import Group, Structure

CHUNKS = 16
"""Into how many pieces the units of a group are cut; heads go one by one."""

LEAST = 8
"""A group keeps one of so many of its units."""


@dataclass(frozen=True)
class Chunk:
    """Units of a group that go together. value: their saliency per multiply-add; macs: what they cost."""

    group: str
    units: Tensor
    value: float
    macs: float


def ranking(structure: Structure, saliency: Mapping[str, Tensor], macs: Mapping[str, float]) -> list[Chunk]:
    """All chunks that may go, in the order in which they should.

    NViT (arXiv 2110.04869) subtracts lambda times the time that a unit saves from its saliency, and removes what is
    least. Removing by saliency per cost is the same for the lambda at which the target is just met; time is taken to
    follow multiply-adds. Units that are for nothing (no saliency) go first, those that save nothing stay.
    """
    chunks = [
        chunk
        for group in structure.groups
        if macs[group.name] > 0
        for chunk in _chunks(group, saliency[group.name], macs[group.name])
    ]
    return sorted(chunks, key=lambda chunk: chunk.value)


def keep_within(structure: Structure, chunks: Sequence[Chunk], macs: float) -> dict[str, Tensor]:
    """What is kept when chunks go, in order, until they saved so many multiply-adds (as if each went alone)."""
    kept = {group.name: torch.ones(group.size, dtype=torch.bool) for group in structure.groups}
    saved = 0.0
    for chunk in chunks:
        if saved >= macs:
            break
        kept[chunk.group][chunk.units] = False
        saved += chunk.macs
    return {name: units for name, units in kept.items() if not units.all()}


def _chunks(group: Group, saliency: Tensor, macs: float) -> list[Chunk]:
    size = 1 if group.kind == "heads" else _chunk_size(group.size)
    order = saliency.argsort(stable=True)[: group.size - max(1, group.size // LEAST)]
    return [
        Chunk(group.name, units, float(saliency[units].sum()) / (macs * len(units)), macs * len(units))
        for units in order.split(size)
    ]


def _chunk_size(units: int) -> int:
    """Eighths of cache lines where there are many units, because kernels like them."""
    size = max(1, units // CHUNKS)
    return size // 8 * 8 if size >= 8 else size
