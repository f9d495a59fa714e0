"""Which axes of a model's parameters belong together, read off the operations of its exported graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.methods.pruning import trace_layers, trace_shapes, trace_sums
from ommatid.methods.pruning.dimensions import new_axis
from ommatid.methods.pruning.tracer import CONSTANT, Axes, Tracer, shape_of
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
    inputs = {node.name: shape_of(node) for node in program.graph.nodes if node.op == "placeholder"}
    axes = {
        given: [new_axis(size, frozen="" if names.get(given) in lasting else CONSTANT) for size in shape]
        for given, shape in inputs.items()
    }
    tracer = Tracer(RULES)
    for result in tracer.follow(program.graph, axes.values()):
        tracer.freeze_all(result, "it is of the answer")
    return {names[given]: found for given, found in axes.items() if names.get(given) in lasting}
