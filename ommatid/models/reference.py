"""Loading the weights of a published reference implementation, by its own parameter names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.models.registry import family_of


@dataclass
class LoadReport:
    """What became of a reference state dict. Names in `unexpected` are the reference's, the others ours."""

    placed: int = 0
    unexpected: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not (self.unexpected or self.missing or self.mismatched)

    def __str__(self) -> str:
        lines = [f"{self.placed} tensors placed"]
        for label in ("unexpected", "missing", "mismatched"):
            names = getattr(self, label)
            lines += (
                [f"{len(names)} {label}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"] if names else []
            )
        return "; ".join(lines)


def load_reference(model: nn.Module, state: Mapping[str, Any]) -> LoadReport:
    """Places the state dict of the reference implementation (tensors or NumPy arrays, its own names) in `model`.

    Names go through the family's REFERENCE_NAMES, in order; shapes that differ only in axes of length 1
    (a 1x1 convolution stored where we have a linear layer) are reshaped. Nothing is guessed beyond that.

    Returns:
        What was placed and what could not be; `report.complete` is True when every tensor found its place.
    """
    module = family_of(model).module
    tensors = {name: torch.as_tensor(value) for name, value in state.items() if not _ignored(module, name)}
    if hasattr(module, "convert_reference"):
        tensors = module.convert_reference(tensors, model)
    sources = {rename(name, getattr(module, "REFERENCE_NAMES", [])): name for name in tensors}
    targets = model.state_dict()

    report = LoadReport(missing=[name for name in targets if name not in sources and not _is_counter(name)])
    for name, source in sources.items():
        if name not in targets:
            report.unexpected.append(source)
        elif not _same_but_for_unit_axes(targets[name], tensors[source]):
            report.mismatched.append(f"{name} {tuple(targets[name].shape)} <- {source} {tuple(tensors[source].shape)}")
        else:
            targets[name].copy_(tensors[source].reshape(targets[name].shape))
            report.placed += 1
    return report


def rename(name: str, rules: list[tuple[str, Any]]) -> str:
    """Applies every (regex, replacement) in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _is_counter(name: str) -> bool:
    """Batch norms count the batches they saw; with a fixed momentum nothing reads it, and many states lack it."""
    return name.endswith(".num_batches_tracked")


def zero_based(template: str) -> Callable[[re.Match[str]], str]:
    """A replacement for REFERENCE_NAMES: the template with what the pattern caught, first a number, counted from 1.

    The number is put in less 1.
    """
    return _renumbered(template, -1)


def one_later(template: str) -> Callable[[re.Match[str]], str]:
    """The same, with the number plus 1: for what ends a stage in the reference and begins the next in ours."""
    return _renumbered(template, 1)


def _renumbered(template: str, step: int) -> Callable[[re.Match[str]], str]:
    return lambda match: template.format(int(match[1]) + step, *match.groups()[1:])


def changed(state: Mapping[str, Tensor], pattern: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """A state in which `change` was applied to every tensor whose name has a match for the regex `pattern`."""
    return {name: change(value) if re.search(pattern, name) else value for name, value in state.items()}


def position_map(state: dict[str, Tensor], name: str, grid: tuple[int, int]) -> dict[str, Tensor]:
    """A state whose position table `name`, stored as a sequence (1, N, C), has the two axes of the grid instead."""
    fits = name in state and state[name].shape[1] == grid[0] * grid[1]
    return state | {name: state[name].unflatten(1, grid)} if fits else state


def query_minus_key(table: Tensor) -> Tensor:
    """A relative position table by key - query, (heads, L, M), as ours are: by query - key, (L * M, heads)."""
    return table.flip(1, 2).flatten(1).T


def join_layers(state: dict[str, Tensor], parts: tuple[str, ...], whole: str) -> dict[str, Tensor]:
    """A state whose layers called `parts`, such as ("q", "kv"), are one called `whole`, with outputs in that order."""
    joined = dict(state)
    for name in state:
        owner, found, leaf = name.rpartition(f".{parts[0]}.")
        sources = [f"{owner}.{part}.{leaf}" for part in parts]
        if found and all(source in state for source in sources):
            joined[f"{owner}.{whole}.{leaf}"] = torch.cat([joined.pop(source) for source in sources])
    return joined


def stack_experts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state whose experts, numbered as in `experts.3.fc1.weight`, are stacked: `experts.fc1.weight`."""
    members: dict[str, dict[int, Tensor]] = {}
    joined = {}
    for name, value in state.items():
        match = re.fullmatch(r"((?:.*\.)?experts\.)(\d+)\.(.+)", name)
        if match:
            members.setdefault(match[1] + match[3], {})[int(match[2])] = value
        else:
            joined[name] = value
    return joined | {name: torch.stack([found[i] for i in sorted(found)]) for name, found in members.items()}


def from_flax(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of a Flax model, named by their paths, in PyTorch's layout; what is in that already stays.

    A transposed convolution also turns its kernel around: Flax's is that of a convolution over spread-out pixels.
    """
    return dict(_from_flax(name.replace("/", "."), value) for name, value in state.items())


def _from_flax(name: str, value: Tensor) -> tuple[str, Tensor]:
    owner, _, leaf = name.rpartition(".")
    if leaf == "scale":
        return f"{owner}.weight", value
    if leaf != "kernel":
        return name, value
    if value.dim() == 4 and "ConvTranspose" in owner:
        return f"{owner}.weight", value.flip(0, 1).permute(2, 3, 0, 1)
    return f"{owner}.weight", value.T if value.dim() == 2 else value.permute(3, 2, 0, 1)


def _ignored(module: Any, name: str) -> bool:
    return any(re.search(pattern, name) for pattern in getattr(module, "REFERENCE_IGNORED", []))


def _same_but_for_unit_axes(ours: Tensor, theirs: Tensor) -> bool:
    return [n for n in ours.shape if n != 1] == [n for n in theirs.shape if n != 1]
