"""Which axes of a model's parameters belong together, read off the operations of its exported graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.methods.pruning.dimensions import (
    Axis,
    concatenate,
    freeze,
    mark_normed,
    new_axis,
    reshape,
    split,
    unify,
)
from ommatid.nn.trunks.exiting import without_exits

Axes = list[Axis]
"""Of one tensor."""

Node = Any
"""Of a graph (`torch.fx.Node`), whose arguments may be anything."""


def parameter_axes(model: nn.Module, example: Tensor) -> dict[str, Axes]:
    """The axes of every parameter and persistent buffer by name, after one pass of `example` (B, C, H, W).

    What an unknown operation touches is frozen, and so are the model's inputs and outputs.
    """
    was_training = model.training
    try:
        with torch.no_grad(), without_exits(model):
            program = torch.export.export(model.eval(), (example,), strict=False)
    finally:
        model.train(was_training)
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lasting = set(model.state_dict())
    tracer = Tracer()
    named: dict[str, Axes] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            name = names.get(node.name)
            axes = [new_axis(size, frozen=name not in lasting) for size in _shape(node)]
            tracer.axes[node] = axes
            if name in lasting:
                named[str(name)] = axes
        elif node.op == "call_function":
            tracer.axes[node] = tracer.apply(node)
        elif node.op == "output":
            for result in node.all_input_nodes:
                tracer.freeze_all(tracer.axes[result])
        else:
            tracer.axes[node] = [new_axis(size, frozen=True) for size in _shape(node)]
    return named


class Tracer:
    """Follows axes through a graph. axes: of every node so far; of one with several outputs, a list of theirs."""

    def __init__(self) -> None:
        self.axes: dict[Node, Any] = {}

    def apply(self, node: Node) -> Any:
        """The axes of what the node computes; axes that it brings together are made the same."""
        if node.target is operator.getitem:
            source = self.axes[node.args[0]]
            return source[node.args[1]] if isinstance(source, Several) else self.unknown(node)
        name = str(node.target).split(".")[1] if str(node.target).startswith("aten.") else ""
        rule = RULES.get(name)
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
        return self.broadcast(inputs, _shape(node))

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
            return Several([_frozen(part) for part in value])
        return _frozen(value)

    def freeze_all(self, axes: Any) -> None:
        for axis in [part for tensor in axes for part in tensor] if isinstance(axes, Several) else axes:
            freeze(axis)


class Several(list):
    """The axes of several tensors."""


Rule = Callable[[Tracer, Node], Any]


def _shape(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else ()


def _frozen(value: Any) -> Axes:
    return [new_axis(int(size), frozen=True) for size in value.shape] if isinstance(value, Tensor) else []


def _argument(node: Node, place: int, name: str, default: Any = None) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _linear(trace: Tracer, node: Node) -> Axes:
    x, weight = trace.of(node.args[0]), trace.of(node.args[1])
    unify(x[-1], weight[1])
    bias = _argument(node, 2, "bias")
    if bias is not None:
        unify(trace.of(bias)[0], weight[0])
    return [*x[:-1], weight[0]]


def _convolution(trace: Tracer, node: Node) -> Any:
    x, weight = trace.of(node.args[0]), trace.of(node.args[1])
    groups = _argument(node, 6, "groups", 1)
    if len(x) != len(weight):
        return trace.unknown(node)
    _freeze_kernel(weight)
    if groups == 1:
        unify(x[1], weight[1])
    else:
        group, several = new_axis(groups), _shape(node)[1] // groups
        freeze(weight[1])
        unify(x[1], [*group, *weight[1]])
        unify(weight[0], [*group, *new_axis(several, frozen=True)])
    bias = _argument(node, 2, "bias")
    if bias is not None:
        unify(trace.of(bias)[0], weight[0])
    return [x[0], weight[0], *_frozen(node.meta["val"])[2:]]


def _freeze_kernel(weight: Axes) -> None:
    for axis in weight[2:]:
        freeze(axis)


def _transposed_convolution(trace: Tracer, node: Node) -> Any:
    x, weight = trace.of(node.args[0]), trace.of(node.args[1])
    if _argument(node, 6, "groups", 1) != 1:
        return trace.unknown(node)
    _freeze_kernel(weight)
    unify(x[1], weight[0])
    bias = _argument(node, 2, "bias")
    if bias is not None:
        unify(trace.of(bias)[0], weight[1])
    return [x[0], weight[1], *_frozen(node.meta["val"])[2:]]


def _last_axes_norm(trace: Tracer, node: Node) -> Axes:
    x, normed = trace.of(node.args[0]), len(node.args[1])
    for parameter in node.args[2:4]:
        if parameter is not None:
            for axis, own in zip(x[-normed:], trace.of(parameter), strict=True):
                unify(axis, own)
    for axis in x[-normed:]:
        mark_normed(axis)
    return x


def _channel_norm(trace: Tracer, node: Node) -> Axes:
    x = trace.of(node.args[0])
    for parameter in node.args[1:5]:
        if parameter is not None:
            unify(x[1], trace.of(parameter)[0])
    return x


def _group_norm(trace: Tracer, node: Node) -> Axes:
    x = trace.of(node.args[0])
    for parameter in node.args[2:4]:
        if parameter is not None:
            unify(x[1], trace.of(parameter)[0])
    if node.args[1] != _shape(node)[1]:
        freeze(x[1])
    return x


def _prelu(trace: Tracer, node: Node) -> Axes:
    x, weight = (trace.of(argument) for argument in node.args[:2])
    if weight and weight[0]:
        unify(x[1], weight[0])
    return x


def _same(trace: Tracer, node: Node) -> Axes:
    return trace.of(node.args[0])


def _view(trace: Tracer, node: Node) -> Axes:
    return reshape(trace.of(node.args[0]), _shape(node))


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
    return reshape(trace.of(node.args[0]), _shape(node))


def _expand(trace: Tracer, node: Node) -> Axes:
    axes, shape = trace.of(node.args[0]), _shape(node)
    axes = [[] for _ in range(len(shape) - len(axes))] + list(axes)
    return [axis or new_axis(size) for axis, size in zip(axes, shape, strict=True)]


def _cat(trace: Tracer, node: Node) -> Axes:
    tensors = [trace.of(part) for part in node.args[0]]
    place = int(_argument(node, 1, "dim", 0)) % len(tensors[0])
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
    out.insert(int(_argument(node, 1, "dim", 0)) % (len(out) + 1), new_axis(len(tensors), frozen=True))
    return out


def _split(trace: Tracer, node: Node) -> Any:
    x = trace.of(node.args[0])
    place = int(_argument(node, 2, "dim", 0)) % len(x)
    sizes = [int(part.shape[place]) for part in node.meta["val"]]
    return Several([[*x[:place], piece, *x[place + 1 :]] for piece in split(x[place], sizes)])


def _unbind(trace: Tracer, node: Node) -> Any:
    x = trace.of(node.args[0])
    place = int(_argument(node, 1, "dim", 0)) % len(x)
    freeze(x[place])
    return Several([[*x[:place], *x[place + 1 :]] for _ in node.meta["val"]])


def _select(trace: Tracer, node: Node) -> Axes:
    x = trace.of(node.args[0])
    place = int(node.args[1]) % len(x)
    freeze(x[place])
    return [*x[:place], *x[place + 1 :]]


def _slice(trace: Tracer, node: Node) -> Axes:
    x, shape = trace.of(node.args[0]), _shape(node)
    place = int(_argument(node, 1, "dim", 0)) % len(x)
    full = node.args[0].meta["val"].shape[place]
    if shape[place] == full:
        return x
    start = int(_argument(node, 2, "start", 0) or 0)
    step = int(_argument(node, 4, "step", 1) or 1) if "narrow" not in str(node.target) else 1
    start = start + full if start < 0 else start
    if step == 1:
        sizes = [start, shape[place], full - start - shape[place]]
        pieces = split(x[place], [size for size in sizes if size])
        piece = pieces[1 if start else 0]
    else:
        freeze(x[place])
        piece = new_axis(shape[place], frozen=True)
    return [*x[:place], piece, *x[place + 1 :]]


def _matmul(trace: Tracer, node: Node) -> Any:
    one, other = (trace.of(argument) for argument in node.args[:2])
    if len(one) < 2 or len(other) < 2:
        return trace.unknown(node)
    unify(one[-1], other[-2])
    shape = _shape(node)
    return [*trace.broadcast([one[:-2], other[:-2]], shape[:-2]), one[-2], other[-1]]


def _addmm(trace: Tracer, node: Node) -> Axes:
    bias, one, other = (trace.of(argument) for argument in node.args[:3])
    unify(one[-1], other[-2])
    return trace.broadcast([[one[-2], other[-1]], bias], _shape(node))


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
        freeze(query[-1])  # it sets the scale of the scores
    mask = _argument(node, 3, "attn_mask")
    if mask is not None:
        scores = [*query[:-1], key[-2]]
        trace.broadcast([scores, trace.of(mask)], [1] * len(scores))
    freeze(key[-2])
    return [*query[:-1], value[-1]]


def _over_one_axis(trace: Tracer, node: Node) -> Axes:
    """Softmax and its like: the axis stays, its entries see each other."""
    x = trace.of(node.args[0])
    freeze(x[int(_argument(node, 1, "dim", -1))])
    return x


def _reduce(trace: Tracer, node: Node) -> Axes:
    x, given = trace.of(node.args[0]), node.args[1] if len(node.args) > 1 else None
    places = range(len(x)) if given is None else [given] if isinstance(given, int) else given
    reduced = {int(place) % len(x) for place in places}
    for place in reduced:
        freeze(x[place])
    if len(_shape(node)) == len(x):
        return [[] if place in reduced else axis for place, axis in enumerate(x)]
    return [axis for place, axis in enumerate(x) if place not in reduced]


def _pool(trace: Tracer, node: Node) -> Any:
    x, value = trace.of(node.args[0]), node.meta["val"]
    several = isinstance(value, tuple | list)
    out = [*x[:-2], *_frozen(value[0] if several else value)[-2:]]
    return Several([out, out]) if several else out


def _pad(trace: Tracer, node: Node) -> Axes:
    x, shape = trace.of(node.args[0]), _shape(node)
    before = node.args[0].meta["val"].shape
    out: Axes = []
    for axis, size, old in zip(x, shape, before, strict=True):
        if size != old:
            freeze(axis)
        out.append(axis if size == old else new_axis(size, frozen=True))
    return out


def _rolled(trace: Tracer, node: Node) -> Axes:
    x = trace.of(node.args[0])
    places = node.args[-1]
    for place in [places] if isinstance(places, int) else places:
        freeze(x[int(place)])
    return x


def _index(trace: Tracer, node: Node) -> Any:
    x, indices = trace.of(node.args[0]), list(node.args[1])
    used = [place for place, index in enumerate(indices) if index is not None]
    if len(used) != 1:
        return trace.unknown(node)
    place = used[0]
    freeze(x[place])
    rank = len(_shape(node)) - len(x) + 1
    return [*x[:place], *_frozen(node.meta["val"])[place : place + rank], *x[place + 1 :]]


RULES: dict[str, Rule] = {
    "linear": _linear,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    "conv_transpose2d": _transposed_convolution,
    **dict.fromkeys(("layer_norm", "rms_norm"), _last_axes_norm),
    "batch_norm": _channel_norm,
    "group_norm": _group_norm,
    "prelu": _prelu,
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
    **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
    "addmm": _addmm,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("softmax", "log_softmax", "_softmax"), _over_one_axis),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm"), _reduce),
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
    **dict.fromkeys(("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d"), _pad),
    **dict.fromkeys(("roll", "flip"), _rolled),
    "index": _index,
}
"""How axes go through each operation, by its name in ATen; pointwise ones need none."""
