"""Which axes of a model's parameters belong together, read off the operations of its exported graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.methods.pruning import trace_layers, trace_shapes, trace_sums
from ommatid.methods.pruning.dimensions import new_axis
from ommatid.methods.pruning.tracer import Axes, Tracer, shape_of
from ommatid.nn.trunks.exiting import without_exits

RULES = {**trace_layers.RULES, **trace_shapes.RULES, **trace_sums.RULES}


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
    tracer = Tracer(RULES)
    named: dict[str, Axes] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            name = names.get(node.name)
            axes = [new_axis(size, frozen=name not in lasting) for size in shape_of(node)]
            tracer.axes[node] = axes
            if name in lasting:
                named[str(name)] = axes
        elif node.op == "call_function":
            tracer.axes[node] = tracer.apply(node)
        elif node.op == "output":
            for result in node.all_input_nodes:
                tracer.freeze_all(tracer.axes[result])
        else:
            tracer.axes[node] = [new_axis(size, frozen=True) for size in shape_of(node)]
    return named
