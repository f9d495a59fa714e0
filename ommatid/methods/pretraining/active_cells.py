"""Convolutions on a part of the image only: what is hidden stays empty in every map of a network.

A submanifold sparse convolution, computed densely and emptied again after every layer. From SparK (arXiv 2301.03580).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.methods.pretraining.masking import repeated
from ommatid.nn.conv import Conv2d
from ommatid.nn.feedforward import MLP
from ommatid.nn.norm import BatchNorm, BatchNorm2d
from ommatid.nn.pool import AvgPool2d, MaxPool2d

EMPTIED = (Conv2d, MaxPool2d, AvgPool2d, nn.LayerNorm, MLP)
"""Layers on maps (B, H, W, C) that would write where nothing is to be."""


class ActiveCells:
    """Which cells of a network's maps are not hidden, for its layers of all resolutions; all of them until it is told.

    It is the forward hook of the layers that it empties.
    """

    def __init__(self) -> None:
        self.coarse: Tensor | None = None

    @contextmanager
    def being(self, coarse: Tensor) -> Iterator[None]:
        """Inside, those of `coarse`, booleans (B, h, w), each standing for a square of cells of any larger map."""
        self.coarse = coarse
        try:
            yield
        finally:
            self.coarse = None

    def of(self, features: Tensor) -> Tensor | None:
        """(B, H, W) booleans for a map (B, H, W, C); None for all of it."""
        return None if self.coarse is None else repeated(self.coarse, features.shape[1] // self.coarse.shape[1])

    def __call__(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        active = self.of(output)
        return output if active is None else output * active.unsqueeze(-1)


class ActiveBatchNorm(BatchNorm):
    """Batch norm over active cells only, by their mean and variance; what is hidden is 0: (B, H, W, C) -> the same.

    Args:
        norm: the batch norm that it takes the place of, with its weights and statistics.
        active: the active cells.
    """

    def __init__(self, norm: BatchNorm2d, active: ActiveCells) -> None:
        super().__init__(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        self.load_state_dict(norm.state_dict())
        self.train(norm.training)
        self.active = active

    def forward(self, features: Tensor) -> Tensor:
        active = self.active.of(features)
        if active is None:
            return super().forward(features)
        normed = super().forward(features[active])
        return normed.new_zeros(features.shape).index_put(torch.where(active), normed)


def keep_empty_(network: nn.Module) -> ActiveCells:
    """Makes a dense convolutional network sparse, in place: with the answer's `being`, hidden cells are 0 everywhere.

    Outside of it the network answers as before. Its weights keep their names.
    """
    active = ActiveCells()
    for name, layer in list(network.named_modules()):
        if isinstance(layer, BatchNorm2d):
            network.set_submodule(name, ActiveBatchNorm(layer, active))
        elif isinstance(layer, EMPTIED):
            layer.register_forward_hook(active)
    return active
