"""How axes go through operations that only move entries: views, permutations, joining and cutting."""

from __future__ import annotations

from typing import Any

from ommatid.methods.pruning.dimensions import concatenate, freeze, new_axis, reshape, split, unify
from ommatid.methods.pruning.tracer import Axes, Node, Rule, Several, Tracer, argument, frozen, shape_of

PICKED = "single entries of it are picked"
PADDED = "it is padded"
STACKED = "it is a stack of tensors"


def _same(trace: Tracer, node: Node) -> Axes:
    return trace.of(node.args[0])


def _view(trace: Tracer, node: Node) -> Axes:
    return reshape(trace.of(node.args[0]), shape_of(node))


def _permute(trace: Tracer, node: Node) -> Axes:
    x = trace.of(node.args[0])
    return [x[place] for place in node.args[1]]


def _transpose(trace: Tracer, node: Node) -> Axes:
    axes = list(trace.of(node.args[0]))
    one, other = (node.args[1], node.args[2]) if len(node.args) > 2 else (-2, -1)
    axes[one], axes[other] = axes[other], axes[one]
    return axes


def _reverse(trace: Tracer, node: Node) -> Axes:
    return trace.of(node.args[0])[::-1]


def _unsqueeze(trace: Tracer, node: Node) -> Axes:
    axes, place = list(trace.of(node.args[0])), int(node.args[1])
    axes.insert(place if place >= 0 else len(axes) + 1 + place, [])
    return axes


def _squeeze(trace: Tracer, node: Node) -> Axes:
    """Axes of length 1 have no dimensions: those of the others are dealt out again."""
    return reshape(trace.of(node.args[0]), shape_of(node))


def _expand(trace: Tracer, node: Node) -> Axes:
    axes, shape = trace.of(node.args[0]), shape_of(node)
    axes = [[] for _ in range(len(shape) - len(axes))] + list(axes)
    return [axis or new_axis(size) for axis, size in zip(axes, shape, strict=True)]


def _cat(trace: Tracer, node: Node) -> Axes:
    tensors = [trace.of(part) for part in node.args[0]]
    place = int(argument(node, 1, "dim", 0)) % len(tensors[0])
    out = list(tensors[0])
    for tensor in tensors[1:]:
        for index, axis in enumerate(tensor):
            if index != place:
                unify(out[index], axis)
    out[place] = concatenate([tensor[place] for tensor in tensors])
    return out


def _stack(trace: Tracer, node: Node) -> Axes:
    tensors = [trace.of(part) for part in node.args[0]]
    out = trace.broadcast(tensors, [1] * len(tensors[0]))
    out.insert(int(argument(node, 1, "dim", 0)) % (len(out) + 1), new_axis(len(tensors), frozen=STACKED))
    return out


def _split(trace: Tracer, node: Node) -> Any:
    x = trace.of(node.args[0])
    place = int(argument(node, 2, "dim", 0)) % len(x)
    sizes = [int(part.shape[place]) for part in node.meta["val"]]
    return Several([[*x[:place], piece, *x[place + 1 :]] for piece in split(x[place], sizes)])


def _unbind(trace: Tracer, node: Node) -> Any:
    x = trace.of(node.args[0])
    place = int(argument(node, 1, "dim", 0)) % len(x)
    freeze(x[place], PICKED)
    return Several([[*x[:place], *x[place + 1 :]] for _ in node.meta["val"]])


def _select(trace: Tracer, node: Node) -> Axes:
    x = trace.of(node.args[0])
    place = int(node.args[1]) % len(x)
    freeze(x[place], PICKED)
    return [*x[:place], *x[place + 1 :]]


def _slice(trace: Tracer, node: Node) -> Axes:
    x, shape = trace.of(node.args[0]), shape_of(node)
    place = int(argument(node, 1, "dim", 0)) % len(x)
    full = node.args[0].meta["val"].shape[place]
    if shape[place] == full:
        return x
    start = int(argument(node, 2, "start", 0) or 0)
    step = int(argument(node, 4, "step", 1) or 1) if "narrow" not in str(node.target) else 1
    start = start + full if start < 0 else start
    if step == 1:
        sizes = [start, shape[place], full - start - shape[place]]
        pieces = split(x[place], [size for size in sizes if size])
        piece = pieces[1 if start else 0]
    else:
        freeze(x[place], PICKED)
        piece = new_axis(shape[place], frozen=PICKED)
    return [*x[:place], piece, *x[place + 1 :]]


def _pad(trace: Tracer, node: Node) -> Axes:
    x, shape = trace.of(node.args[0]), shape_of(node)
    before = node.args[0].meta["val"].shape
    out: Axes = []
    for axis, size, old in zip(x, shape, before, strict=True):
        if size != old:
            freeze(axis, PADDED)
        out.append(axis if size == old else new_axis(size, frozen=PADDED))
    return out


def _rolled(trace: Tracer, node: Node) -> Axes:
    x = trace.of(node.args[0])
    places = node.args[-1]
    for place in [places] if isinstance(places, int) else places:
        freeze(x[int(place)], "it is turned around")
    return x


def _index(trace: Tracer, node: Node) -> Any:
    x, indices = trace.of(node.args[0]), list(node.args[1])
    used = [place for place, index in enumerate(indices) if index is not None]
    if len(used) != 1:
        return trace.unknown(node)
    place = used[0]
    freeze(x[place], PICKED)
    rank = len(shape_of(node)) - len(x) + 1
    return [*x[:place], *frozen(node.meta["val"], PICKED)[place : place + rank], *x[place + 1 :]]


def _triangle(trace: Tracer, node: Node) -> Axes:
    x = trace.of(node.args[0])
    for axis in x[-2:]:
        freeze(axis, PICKED)
    return x


def _filled(trace: Tracer, node: Node) -> Axes:
    """Zeros of a shape that the model reads off what is there."""
    return [new_axis(size) for size in shape_of(node)]


def _nothing(trace: Tracer, node: Node) -> Axes:
    return []


def _without_autocast(trace: Tracer, node: Node) -> Any:
    """A part of the graph for which automatic mixed precision is turned off."""
    *_, inner = (argument for argument in node.args[:5])
    graph = getattr(node.graph.owning_module, inner.target).graph
    return trace.follow(graph, [trace.of(given) for given in node.args[5:]])


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "clone",
            "contiguous",
            "to",
            "_to_copy",
            "alias",
            "detach",
            "dropout",
            "feature_dropout",
            "native_dropout",
            "lift_fresh_copy",
        ),
        _same,
    ),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "unflatten", "flatten"), _view),
    "permute": _permute,
    **dict.fromkeys(("transpose", "swapaxes", "mT"), _transpose),
    **dict.fromkeys(("t", "numpy_T"), _reverse),
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    **dict.fromkeys(("expand", "expand_as"), _expand),
    **dict.fromkeys(("cat", "concat"), _cat),
    "stack": _stack,
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    "unbind": _unbind,
    "select": _select,
    **dict.fromkeys(("slice", "narrow"), _slice),
    **dict.fromkeys(("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d"), _pad),
    **dict.fromkeys(("roll", "flip"), _rolled),
    "index": _index,
    **dict.fromkeys(("tril", "triu"), _triangle),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like"), _filled),
    "_assert_tensor_metadata": _nothing,
    "wrap_with_autocast": _without_autocast,
}
