"""The pruning methods that `ommatid compress` knows by name: each takes a model and gives a smaller one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.methods.pruning.criteria import hessian_saliency, magnitude_saliency, unit_costs
from ommatid.methods.pruning.ranking import keep_within, ranking
from ommatid.methods.pruning.structural import Structure, describe, prune, verify
from ommatid.methods.pruning.unstructured import (
    block_layers,
    dimap_,
    ecoflap_sparsity,
    local_,
    magnitude_,
    two_of_four_,
)
from ommatid.methods.pruning.zeroth_order import Calibration

Value = TypeVar("Value")

STEPS = 7
"""Halvings of the interval in which the share to remove is looked for."""


@dataclass(frozen=True)
class Task:
    """What a method is to reach, and what it may look at.

    batches: images (B, C, H, W) with labels (B,). macs: multiply-adds of a model for one image. cost: of a model, as a
    fraction of the original's, in what is to become less.
    """

    batches: Sequence[tuple[Tensor, Tensor]]
    macs: Callable[[nn.Module], float]
    cost: Callable[[nn.Module], float]

    @property
    def image(self) -> Tensor:
        """One, (1, C, H, W)."""
        return self.batches[0][0][:1]


@dataclass(frozen=True)
class Reduced:
    """A model made smaller. removed: what went where, JSON-like. error: of a structural method, how far the model is
    from the masked original, as a fraction of its largest answer."""

    model: nn.Module
    removed: list[dict[str, Any]]
    error: float | None = None


Reduce = Callable[[float], Reduced]
"""A fraction of the original's cost -> a model that costs no more."""


@dataclass(frozen=True)
class Method:
    """A method by name. lowers: which costs it can lower. prepare: does what all fractions share; None where the method
    changes how the model computes and not the model, so that it comes last, behind the fine-tuning."""

    name: str
    about: str
    lowers: tuple[str, ...]
    prepare: Callable[[nn.Module, Task], Reduce] | None


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def structural(
    saliency: Callable[[nn.Module, Structure, Task], dict[str, Tensor]],
) -> Callable[[nn.Module, Task], Reduce]:
    """Whole units go, by one ranking; how many, is found by trying until the cost is met."""

    def prepare(model: nn.Module, task: Task) -> Reduce:
        structure = describe(model, task.image)
        costs = unit_costs(model, structure, task.macs)
        chunks = ranking(structure, saliency(model, structure, task), costs)
        most = sum(chunk.macs for chunk in chunks)

        def reduce(fraction: float) -> Reduced:
            low, high = 0.0, 1.0 if task.cost(model) > fraction else 0.0
            for _ in range(STEPS if high else 0):
                middle = (low + high) / 2
                tried = prune(model, structure, keep_within(structure, chunks, middle * most))
                low, high = (low, middle) if task.cost(tried) <= fraction else (middle, high)
            kept = keep_within(structure, chunks, high * most)
            reduced = prune(model, structure, kept)
            reached = task.cost(reduced)
            if reached > fraction * 1.1:
                raise ValueError(
                    f"{fraction:.2f}x is out of reach: with all the units gone that may go it is still {reached:.2f}x "
                    "(a larger batch leaves less to what no unit is responsible for)"
                )
            return Reduced(reduced, _units_removed(structure, kept), verify(model, structure, kept, task.image))

        return reduce

    return prepare


def sparse(zero: Callable[[nn.Module, Task, float], None]) -> Callable[[nn.Module, Task], Reduce]:
    """Single weights go; `zero` changes a copy, to a sparsity of the layers inside of blocks."""

    def prepare(model: nn.Module, task: Task) -> Reduce:
        def reduce(fraction: float) -> Reduced:
            weights = sum(layer.weight.numel() for layer in block_layers(model).values())
            everything = sum(parameter.numel() for parameter in model.parameters())
            copied = copy.deepcopy(model)
            zero(copied, task, min((1 - fraction) * everything / max(weights, 1), 0.98))
            return Reduced(copied, _weights_removed(copied))

        return reduce

    return prepare


def _two_of_four(model: nn.Module, task: Task, sparsity: float) -> None:
    two_of_four_(model)


def _wanda(model: nn.Module, task: Task, sparsity: float) -> None:
    local_(model, [images for images, _ in task.batches], dict.fromkeys(block_layers(model), sparsity))


def _sparsegpt(model: nn.Module, task: Task, sparsity: float) -> None:
    images = [images for images, _ in task.batches]
    local_(model, images, dict.fromkeys(block_layers(model), sparsity), method="sparsegpt")


def _ecoflap(model: nn.Module, task: Task, sparsity: float) -> None:
    model.eval()
    sizes = [len(images) for images, _ in task.batches]
    calibration = Calibration(lambda batch: cross_entropy(model, batch), task.batches, sizes)
    shares = ecoflap_sparsity(model, calibration, sparsity)
    local_(model, [images for images, _ in task.batches], shares)


FEWER_UNITS = ("latency", "memory", "size", "parameters", "macs")
FEWER_WEIGHTS = ("size", "parameters")

METHODS = {
    method.name: method
    for method in (
        Method(
            "nvit",
            "heads, hidden units and widths, by Hessian-aware saliency for the cost they save",
            FEWER_UNITS,
            structural(lambda model, structure, task: hessian_saliency(model, structure, cross_entropy, task.batches)),
        ),
        Method(
            "units",
            "the same units, by the energy of their weights: no images are looked at",
            FEWER_UNITS,
            structural(lambda model, structure, task: magnitude_saliency(model, structure)),
        ),
        Method("dimap", "single weights, by their share of their layer's energy, by modules", FEWER_WEIGHTS,
               sparse(lambda model, task, sparsity: dimap_(model, sparsity))),
        Method("magnitude", "the smallest weights of all", FEWER_WEIGHTS,
               sparse(lambda model, task, sparsity: magnitude_(model, sparsity))),
        Method("wanda", "single weights, by what comes into them", FEWER_WEIGHTS, sparse(_wanda)),
        Method("sparsegpt", "single weights, the others making up for them", FEWER_WEIGHTS, sparse(_sparsegpt)),
        Method("ecoflap", "wanda, sparser in blocks that the loss depends on less", FEWER_WEIGHTS, sparse(_ecoflap)),
        Method("2:4", "two of every four weights, for GPUs with sparse tensor cores", FEWER_WEIGHTS,
               sparse(_two_of_four)),
        Method("int8", "8 bits for weights and activations, in OpenVINO", ("latency", "size"), None),
    )
}  # fmt: skip
"""By name."""


def nonzero(model: nn.Module) -> int:
    """Parameters that are not zero."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in model.parameters())


def stored_bytes(model: nn.Module) -> int:
    """What the weights need on disk: those that are held sparse as their non-zero values and a bit for each place."""
    held = set(getattr(model, "sparse", ()))
    return sum(
        int(torch.count_nonzero(value)) * value.element_size() + value.numel() // 8 if name in held else value.nbytes
        for name, value in model.state_dict().items()
    )


def _units_removed(structure: Structure, kept: dict[str, Tensor]) -> list[dict[str, Any]]:
    rows = []
    for group in structure.groups:
        units = kept.get(group.name, torch.ones(group.size, dtype=torch.bool))
        gone = (~units).nonzero().flatten().tolist() if group.kind == "heads" else []
        row = {"layer": group.name, "kind": group.kind, "kept": int(units.sum()), "of": group.size}
        rows.append(row | {"gone": gone})
    return rows


def _weights_removed(model: nn.Module) -> list[dict[str, Any]]:
    return [
        {
            "layer": f"{name}.weight",
            "kind": "weights",
            "kept": int(torch.count_nonzero(layer.weight)),
            "of": layer.weight.numel(),
            "gone": [],
        }
        for name, layer in block_layers(model).items()
    ]
