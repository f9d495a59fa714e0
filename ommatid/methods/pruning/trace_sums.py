"""How axes go through operations in which their entries meet: products of activations, attention, sums, pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ommatid.methods.pruning.dimensions import Axis, freeze, unify
from ommatid.methods.pruning.tracer import Axes, Node, Rule, Several, Tracer, argument, frozen, name_of, shape_of


def _matmul(trace: Tracer, node: Node) -> Any:
    one, other = (trace.of(argument) for argument in node.args[:2])
    if len(one) < 2 or len(other) < 2:
        return trace.unknown(node)
    unify(one[-1], other[-2])
    shape = shape_of(node)
    return [*trace.broadcast([one[:-2], other[:-2]], shape[:-2]), one[-2], other[-1]]


def _einsum(trace: Tracer, node: Node) -> Any:
    equation, tensors = node.args[0], [trace.of(part) for part in node.args[1]]
    if "..." in str(equation) or "->" not in str(equation):
        return trace.unknown(node)
    inputs, output = str(equation).replace(" ", "").split("->")
    letters: dict[str, Axis] = {}
    for word, axes in zip(inputs.split(","), tensors, strict=True):
        for letter, axis in zip(word, axes, strict=True):
            if letters.get(letter):
                unify(letters[letter], axis)
            else:
                letters[letter] = axis
    return [letters[letter] for letter in output]


def _attention(trace: Tracer, node: Node) -> Axes:
    query, key, value = (trace.of(argument) for argument in node.args[:3])
    for one, other in ((query, key), (key, value)):
        for place in range(len(one) - 2):
            unify(one[place], other[place])
    unify(key[-2], value[-2])
    unify(query[-1], key[-1])
    if node.kwargs.get("scale") is None:
        freeze(query[-1], "its length sets the scale of attention")
    mask = argument(node, 3, "attn_mask")
    if mask is not None:
        scores = [*query[:-1], key[-2]]
        trace.broadcast([scores, trace.of(mask)], [1] * len(scores))
    freeze(key[-2], "attention goes along it")
    return [*query[:-1], value[-1]]


def _over_one_axis(trace: Tracer, node: Node) -> Axes:
    """Softmax and its like: the axis stays, its entries see each other."""
    x = trace.of(node.args[0])
    freeze(x[int(argument(node, 1, "dim", -1))], f"a {name_of(node)} goes along it")
    return x


def _reduce(trace: Tracer, node: Node) -> Axes:
    return _reduced(trace, node, argument(node, 1, "dim"))


def _vector_norm(trace: Tracer, node: Node) -> Axes:
    """The order of the norm comes before the axes."""
    return _reduced(trace, node, argument(node, 2, "dim"))


def _reduced(trace: Tracer, node: Node, given: int | Sequence[int] | None) -> Axes:
    x = trace.of(node.args[0])
    places = range(len(x)) if given is None else [given] if isinstance(given, int) else given
    reduced = {int(place) % len(x) for place in places}
    for place in reduced:
        freeze(x[place], f"a {name_of(node)} goes along it")
    if len(shape_of(node)) == len(x):
        return [[] if place in reduced else axis for place, axis in enumerate(x)]
    return [axis for place, axis in enumerate(x) if place not in reduced]


def _pool(trace: Tracer, node: Node) -> Any:
    x, value = trace.of(node.args[0]), node.meta["val"]
    several, why = isinstance(value, tuple | list), f"a {name_of(node)} goes along it"
    for axis in x[-2:]:
        freeze(axis, why)
    out = [*x[:-2], *frozen(value[0] if several else value, why)[-2:]]
    return Several([out, out]) if several else out


RULES: dict[str, Rule] = {
    **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("softmax", "log_softmax", "_softmax"), _over_one_axis),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std"), _reduce),
    "linalg_vector_norm": _vector_norm,
    **dict.fromkeys(
        (
            "adaptive_avg_pool2d",
            "avg_pool2d",
            "max_pool2d",
            "max_pool2d_with_indices",
            "adaptive_max_pool2d",
            "upsample_bilinear2d",
            "upsample_bicubic2d",
            "upsample_nearest2d",
            "_upsample_bicubic2d_aa",
            "_upsample_bilinear2d_aa",
        ),
        _pool,
    ),
}
