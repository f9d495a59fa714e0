"""How axes go through layers that have weights of their own: products with them, convolutions, norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from ommatid.methods.pruning.dimensions import freeze, mark_normed, new_axis, unify
from ommatid.methods.pruning.tracer import Axes, Node, Rule, Tracer, argument, frozen, shape_of

PLACES = "a convolution goes along it"
IN_GROUP = "its channels are together in a group"
BARE_NORM = "a norm without weights is taken over it"


def _linear(trace: Tracer, node: Node) -> Axes:
    x, weight = trace.of(node.args[0]), trace.of(node.args[1])
    unify(x[-1], weight[1])
    bias = argument(node, 2, "bias")
    if bias is not None:
        unify(trace.of(bias)[0], weight[0])
    return [*x[:-1], weight[0]]


def _convolution(trace: Tracer, node: Node) -> Any:
    x, weight = trace.of(node.args[0]), trace.of(node.args[1])
    groups = argument(node, 6, "groups", 1)
    if len(x) != len(weight):
        return trace.unknown(node)
    _freeze_places(x, weight)
    if groups == 1:
        unify(x[1], weight[1])
    else:
        group, several = new_axis(groups), shape_of(node)[1] // groups
        freeze(weight[1], IN_GROUP)
        unify(x[1], [*group, *weight[1]])
        unify(weight[0], [*group, *new_axis(several, frozen=IN_GROUP)])
    bias = argument(node, 2, "bias")
    if bias is not None:
        unify(trace.of(bias)[0], weight[0])
    return [x[0], weight[0], *frozen(node.meta["val"], PLACES)[2:]]


def _freeze_places(x: Axes, weight: Axes) -> None:
    for axis in x[2:] + weight[2:]:
        freeze(axis, PLACES)


def _transposed_convolution(trace: Tracer, node: Node) -> Any:
    x, weight = trace.of(node.args[0]), trace.of(node.args[1])
    if argument(node, 6, "groups", 1) != 1:
        return trace.unknown(node)
    _freeze_places(x, weight)
    unify(x[1], weight[0])
    bias = argument(node, 2, "bias")
    if bias is not None:
        unify(trace.of(bias)[0], weight[1])
    return [x[0], weight[1], *frozen(node.meta["val"], PLACES)[2:]]


def _last_axes_norm(trace: Tracer, node: Node) -> Axes:
    """Weight and bias come after the normed shape, and numbers after these. Without weights nothing tells the norm of a
    masked model which units are left."""
    x, normed = trace.of(node.args[0]), len(node.args[1])
    parameters = [given for given in node.args[2:4] if isinstance(given, fx.Node)]
    for axis in x[-normed:]:
        mark_normed(axis)
        if not parameters:
            freeze(axis, BARE_NORM)
    for parameter in parameters:
        for axis, own in zip(x[-normed:], trace.of(parameter), strict=True):
            unify(axis, own)
    return x


def _per_channel(trace: Tracer, node: Node, parameters: Sequence[Node | None]) -> Axes:
    """Parameters have the axis of the channels, which is the second."""
    x = trace.of(node.args[0])
    for parameter in parameters:
        if parameter is not None:
            unify(x[1], trace.of(parameter)[0])
    return x


def _channel_norm(trace: Tracer, node: Node) -> Axes:
    return _per_channel(trace, node, node.args[1:5])


def _group_norm(trace: Tracer, node: Node) -> Axes:
    x = _per_channel(trace, node, node.args[2:4])
    if node.args[1] != shape_of(node)[1]:
        freeze(x[1], IN_GROUP)
    return x


def _prelu(trace: Tracer, node: Node) -> Axes:
    x, weight = (trace.of(argument) for argument in node.args[:2])
    if weight and weight[0]:
        unify(x[1], weight[0])
    return x


def _addmm(trace: Tracer, node: Node) -> Axes:
    bias, one, other = (trace.of(argument) for argument in node.args[:3])
    unify(one[-1], other[-2])
    return trace.broadcast([[one[-2], other[-1]], bias], shape_of(node))


RULES: dict[str, Rule] = {
    "linear": _linear,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    "conv_transpose2d": _transposed_convolution,
    **dict.fromkeys(("layer_norm", "rms_norm"), _last_axes_norm),
    "batch_norm": _channel_norm,
    "group_norm": _group_norm,
    "prelu": _prelu,
    "addmm": _addmm,
}
