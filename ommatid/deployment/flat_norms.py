"""Norms over the channels of maps, said so that OpenVINO's CPU plugin has a kernel for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ommatid.deployment.runtime import imported


def flat_norms(model: Any) -> Any:
    """The OpenVINO model, changed in place: norms over the last of four axes or more see all positions as one axis.

    The plugin's kernel takes a norm over the last of three axes; of more it makes a mean, a difference, a second norm
    and copies between them. The new shapes are views of the same memory.
    """
    passes = imported("openvino.passes")
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())  # which axes a norm is over may be computed
    manager.run_passes(model)
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MVN" and _over_channels_of_map(node):
            _flatten(node)
    model.validate_nodes_and_infer_types()
    return model


def _over_channels_of_map(node: Any) -> bool:
    """Whether a norm is over the last axis, of known length, of four or more."""
    shape, axes = node.input_value(0).get_partial_shape(), node.input_value(1).get_node()
    if axes.get_type_name() != "Constant" or shape.rank.is_dynamic or shape.rank.get_length() < 4:
        return False
    last = shape.rank.get_length() - 1
    return axes.get_data().tolist() in ([-1], [last]) and not shape[last].is_dynamic


def _flatten(node: Any) -> None:
    operators = imported("openvino.opset8")
    x, told = node.input_value(0), node.get_attributes()
    channels = x.get_partial_shape()[-1].get_length()
    flat = operators.reshape(x, np.array([0, -1, channels]), special_zero=True)  # 0: as many as before
    norm = operators.mvn(flat, np.array([2]), told["normalize_variance"], told["eps"], told["eps_mode"])
    whole = operators.reshape(norm, operators.shape_of(x), special_zero=False)
    for taker in node.output(0).get_target_inputs():
        taker.replace_source_output(whole.output(0))
