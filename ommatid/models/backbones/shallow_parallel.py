"""Shallow parallel network: the layers of a residual stack side by side, all on the same input.

"Make Deep Networks Shallow Again" (arXiv 2309.08414). A residual stack multiplied out is its input, plus what all
layers make of it, plus what chains of layers do; the parallel form leaves out the chains, and is one wide layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.conv import Conv2d
from ommatid.ops.residual_expansion import residual_expansion, residual_stack

ACTS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity}


@dataclass(frozen=True, kw_only=True)
class ShallowParallelConfig(Config):
    """The function "expansion" reads `dim` and `depth` only. No paths were dropped: `drop_path_rate` means nothing."""

    function: Literal["network", "expansion"] = "network"
    form: Literal["sequential", "parallel"] = "parallel"
    dim: int = 64
    depth: int = 8
    kernel_size: int = 3
    act: Literal["relu", "tanh", "none"] = "relu"

    def check(self) -> None:
        require_positive(dim=self.dim, depth=self.depth)
        odd = self.kernel_size > 0 and self.kernel_size % 2 == 1
        require(odd, "kernel_size", self.kernel_size, "an odd number")


class SequentialLayers(nn.Module):
    """x + act(layer(x)), one layer after another: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, layers: Iterable[Conv2d], act: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + self.act(layer(x))
        return x


class ParallelLayers(nn.Module):
    """x + the sum of act(layer(x)) over all layers, as one wide convolution: (B, H, W, C) -> (B, H, W, C).

    Its parameters are those of `SequentialLayers`; `deploy()` joins them.
    """

    def __init__(self, layers: Iterable[Conv2d], act: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.act = act
        self.wide: Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        branches = self.act(self._side_by_side(x) if self.wide is None else self.wide(x))
        return x + branches.unflatten(-1, (-1, x.shape[-1])).sum(-2)

    def _side_by_side(self, x: Tensor) -> Tensor:
        """What all layers say: (B, H, W, C) -> (B, H, W, layers * C)."""
        weight, bias = self._joined()
        padding = weight.shape[-1] // 2
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=padding).permute(0, 2, 3, 1)

    def _joined(self) -> tuple[Tensor, Tensor]:
        weights, biases = zip(*((layer.weight, layer.bias) for layer in self.layers), strict=True)
        return torch.cat(weights), torch.cat(biases)

    def deploy_(self) -> None:
        weight, bias = self._joined()
        outputs, inputs, size, _ = weight.shape
        self.wide = Conv2d(inputs, outputs, size, padding=size // 2)
        self.wide.weight, self.wide.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.layers = nn.ModuleList()


FORMS: dict[str, type[SequentialLayers] | type[ParallelLayers]] = {
    "sequential": SequentialLayers,
    "parallel": ParallelLayers,
}


@register("shallow_parallel", ShallowParallelConfig)
class ShallowParallel(Backbone):
    """Convolutions of one width at full resolution, and the mean over all positions. Takes any image.

    Weights fit into both forms, which make different things of them.
    """

    config: ShallowParallelConfig

    def __init__(self, config: ShallowParallelConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = (config.dim,), (1,)
        self.act = ACTS[config.act]()
        self.stem = same_size_conv(config.in_channels, config)
        self.residual = FORMS[config.form]((same_size_conv(config.dim, config) for _ in range(config.depth)), self.act)
        self.head = classifier(config.dim, config.num_classes)

    @property
    def body(self) -> list[nn.Module]:
        """Of one depth, however many layers there are side by side."""
        return [self.residual]

    def maps(self, image: Tensor) -> list[Tensor]:
        return [self.residual(self.act(self.stem(channels_last(image))))]

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[0].mean((1, 2))


def same_size_conv(in_dim: int, config: ShallowParallelConfig) -> Conv2d:
    return Conv2d(in_dim, config.dim, config.kernel_size, padding=config.kernel_size // 2)


@register_part("shallow_parallel", "expansion")
class Expansion(Procedure):
    """x (B, C) -> the terms of the expansion, their sums up to each (B, D + 1, C), and what the stack gives (B, C)."""

    def __init__(self, config: ShallowParallelConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(nn.Linear(config.dim, config.dim, bias=False) for _ in range(config.depth))

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        weights = list(self.layers.parameters())
        terms = residual_expansion(x, weights)
        return {"terms": terms, "truncations": terms.cumsum(1), "sequential": residual_stack(x, weights)}


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Layers are part of the residual trunk, except where they stand alone."""
    prefix = "residual." if isinstance(model, ShallowParallel) else ""
    return {(prefix if name.startswith("layers.") else "") + name: value for name, value in state.items()}


def reference_outputs(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """The map, which the reference calls features."""
    assert isinstance(model, ShallowParallel)
    return {"features": model.features(image)[0]}
