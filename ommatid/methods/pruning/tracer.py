"""Following the axes of tensors through the operations of an exported graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ommatid.methods.pruning.dimensions import Axis, freeze, new_axis, unify

Axes = list[Axis]
"""Of one tensor."""

Node = Any
"""Of a graph (`torch.fx.Node`), whose arguments may be anything."""

Rule = Callable[["Tracer", Node], Any]
"""How axes go through one operation."""


class Several(list):
    """The axes of several tensors."""


class Tracer:
    """Follows axes through a graph, by rules for its operations by their names in ATen; pointwise ones need none.

    axes: of every node so far; of one with several outputs, a list of theirs.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self.rules = rules
        self.axes: dict[Node, Any] = {}

    def apply(self, node: Node) -> Any:
        """The axes of what the node computes; axes that it brings together are made the same."""
        if node.target is operator.getitem:
            source = self.axes[node.args[0]]
            return source[node.args[1]] if isinstance(source, Several) else self.unknown(node)
        name = str(node.target).split(".")[1] if str(node.target).startswith("aten.") else ""
        rule = self.rules.get(name)
        if rule is not None:
            return rule(self, node)
        if torch.Tag.pointwise in getattr(node.target, "tags", ()):
            return self.pointwise(node)
        return self.unknown(node)

    def of(self, argument: Any) -> Axes:
        """The axes of a tensor argument."""
        return self.axes[argument]

    def pointwise(self, node: Node) -> Axes:
        inputs = [self.of(source) for source in node.all_input_nodes]
        return self.broadcast(inputs, shape_of(node))

    def broadcast(self, inputs: Sequence[Axes], shape: Sequence[int]) -> Axes:
        out: Axes = []
        for place in range(-len(shape), 0):
            aligned = [axes[place] for axes in inputs if len(axes) >= -place and axes[place]]
            for other in aligned[1:]:
                unify(aligned[0], other)
            out.append(aligned[0] if aligned else new_axis(shape[place]))
        return out

    def unknown(self, node: Node) -> Any:
        for source in node.all_input_nodes:
            self.freeze_all(self.axes[source])
        value = node.meta.get("val")
        if isinstance(value, tuple | list):
            return Several([frozen(part) for part in value])
        return frozen(value)

    def freeze_all(self, axes: Any) -> None:
        for axis in [part for tensor in axes for part in tensor] if isinstance(axes, Several) else axes:
            freeze(axis)


def shape_of(node: Node) -> tuple[int, ...]:
    """Of what a node computes; () where that is no tensor."""
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else ()


def frozen(value: Any) -> Axes:
    """Axes of a tensor that nothing may be removed from."""
    return [new_axis(int(size), frozen=True) for size in value.shape] if isinstance(value, Tensor) else []


def argument(node: Node, place: int, name: str, default: Any = None) -> Any:
    """Of a node, by its place or its name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)
