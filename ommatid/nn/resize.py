"""Layers that are not as large as their model's config says: some of their units were removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def replace_tensor(model: nn.Module, name: str, value: Tensor) -> None:
    """Puts `value` in the place of a parameter or buffer, by its name in the state dict, and tells its layer."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if leaf in owner._parameters:
        old = owner._parameters[leaf]
        setattr(owner, leaf, nn.Parameter(value, requires_grad=old is not None and old.requires_grad))
    else:
        setattr(owner, leaf, value)
    tell_sizes(owner)


def tell_sizes(layer: nn.Module) -> None:
    """Makes the attributes that say a layer's sizes say those of its weight."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if layer.groups > 1:
            layer.groups = len(layer.weight) // (layer.out_channels // layer.groups)
        layer.out_channels, layer.in_channels = len(layer.weight), layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.LayerNorm | nn.RMSNorm) and layer.weight is not None:
        layer.normalized_shape = tuple(layer.weight.shape)
    elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.weight is not None:
        layer.num_features = len(layer.weight)
    elif isinstance(layer, nn.GroupNorm) and layer.num_groups == layer.num_channels:
        layer.num_groups = layer.num_channels = len(layer.weight)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)


def resize_(model: nn.Module, shapes: Mapping[str, Sequence[int]], attributes: Mapping[str, Any]) -> None:
    """Gives tensors of the model other shapes, full of zeros, and sets attributes by path ("blocks.0.heads")."""
    state = model.state_dict()
    for name, shape in shapes.items():
        if name in state and state[name].shape != torch.Size(shape):
            replace_tensor(model, name, state[name].new_zeros(*shape))
    for path, value in attributes.items():
        owner, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(owner), leaf, tuple(value) if isinstance(value, list) else value)
