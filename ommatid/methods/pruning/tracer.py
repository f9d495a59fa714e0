"""Following the axes of tensors through the operations of an exported graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph

from ommatid.methods.pruning.dimensions import Axis, freeze, new_axis, unify

Axes = list[Axis]
"""Of one tensor."""

CONSTANT = "it is of the images, or of a constant that is not saved"

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

    def follow(self, graph: Graph, inputs: Iterable[Axes]) -> Several:
        """The axes of what a graph gives, from those of what it is given."""
        given = iter(inputs)
        for node in graph.nodes:
            if node.op == "output":
                return Several([self.axes[result] for result in node.all_input_nodes])
            if node.op == "placeholder":
                self.axes[node] = next(given)
            elif node.op == "call_function":
                self.axes[node] = self.apply(node)
            else:
                self.axes[node] = frozen(node.meta.get("val"), CONSTANT)
        raise AssertionError("a graph ends with its output")

    def apply(self, node: Node) -> Any:
        """The axes of what the node computes; axes that it brings together are made the same."""
        if node.target is operator.getitem:
            source = self.axes[node.args[0]]
            return source[node.args[1]] if isinstance(source, Several) else self.unknown(node)
        rule = self.rules.get(name_of(node))
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
        why = f"no rule says how axes go through {name_of(node)}"
        for source in node.all_input_nodes:
            self.freeze_all(self.axes[source], why)
        value = node.meta.get("val")
        if isinstance(value, tuple | list):
            return Several([frozen(part, why) for part in value])
        return frozen(value, why)

    def freeze_all(self, axes: Any, why: str) -> None:
        for axis in [part for tensor in axes for part in tensor] if isinstance(axes, Several) else axes:
            freeze(axis, why)


def shape_of(node: Node) -> tuple[int, ...]:
    """Of what a node computes; () where that is no tensor."""
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else ()


def name_of(node: Node) -> str:
    """Of an operation in ATen, without its overload; of another as it is."""
    name = str(node.target)
    return name.split(".")[1] if name.startswith("aten.") else name


def frozen(value: Any, why: str) -> Axes:
    """Axes of a tensor that nothing may be removed from."""
    return [new_axis(int(size), frozen=why) for size in value.shape] if isinstance(value, Tensor) else []


def argument(node: Node, place: int, name: str, default: Any = None) -> Any:
    """Of a node, by its place or its name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)
