"""SimpleNet: 3x3 convolutions one after another, and nothing else.

"Lets keep it simple, Using simple architectures to outperform deeper and more complex architectures"
(arXiv 1608.06037).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.block import pyramid
from ommatid.nn.conv import ConvNorm
from ommatid.nn.pool import MaxPool2d

# ("conv", width, kernel size, stride, dropout) or ("pool", stride)
Layer = tuple[Literal["conv"], int, int, int, bool] | tuple[Literal["pool"], int]

# What the published variants are made of: a width is a 3x3 convolution, "k1" marks a 1x1 one, "*" one without dropout.
TABLES = {
    "imagenet_5m": "64 128 128 128 128 128 P 256 256 256 512 P 2048k1 256k1 256",
    "imagenet_9m": "128 192 192 192 192 192 P 320 320 320 640 P 2560k1 320k1 320",
    "cifar_310k": "64 32 32 32* P 32 32 64* P 64 64* P 128 256k1 64k1* P 64*",
    "cifar_460k": "32 32 32 64* P 64 64 64* P 64 64* P 96 96k1 96k1* P 100*",
    "cifar_5m": "64 128 128 128* P 128 128 256* P 256 256* P 512 2048k1 256k1* P 256*",
    "cifar_5m_extra_pool": "64 128 128 128* P 128 128 256* P 256 256* P 512 P 2048k1 256k1* P 256*",
}

# Strides of the first layers, pools included; then 1 for convolutions and 2 for pools.
STRIDE_MODES: tuple[tuple[int, ...], ...] = ((), (2, 2, 2), (2, 2, 1, 2), (2, 2, 1, 1, 2), (2, 1, 2, 1, 2, 1))


def expand(table: str, *, scale: float = 1.0, stride_mode: int = 0) -> tuple[Layer, ...]:
    """The layers of a published table, its widths scaled, its first layers with the strides of a mode."""
    first_strides = STRIDE_MODES[stride_mode]
    layers: list[Layer] = []
    for number, entry in enumerate(TABLES[table].split()):
        stride = first_strides[number] if number < len(first_strides) else None
        if entry == "P":
            layers.append(("pool", stride or 2))
        else:
            width, kernel_size = round(int(re.split(r"[k*]", entry)[0]) * scale), 1 if "k1" in entry else 3
            layers.append(("conv", width, kernel_size, stride or 1, not entry.endswith("*")))
    return tuple(layers)


@dataclass(frozen=True, kw_only=True)
class SimpleNetConfig(Config):
    """`layers` is the whole network. Where a layer says so, and after pools, whole channels drop at `dropout_rate`.

    There is no branch that could be dropped: `drop_path_rate` means nothing.
    """

    layers: tuple[Layer, ...] = expand("cifar_310k")
    dropout_rate: float = 0.0

    def check(self) -> None:
        require(any(layer[0] == "conv" for layer in self.layers), "layers", self.layers, "at least one convolution")
        for layer in self.layers:
            require(layer_stride(layer) > 0, "layers", layer, "a positive stride")
            if layer[0] == "conv":
                require(layer[1] > 0 and layer[2] in (1, 3), "layers", layer, "a positive width and a kernel of 1 or 3")
        require(0 <= self.dropout_rate < 1, "dropout_rate", self.dropout_rate, "from 0 up to, not including, 1")

    @property
    def stages(self) -> list[list[Layer]]:
        """The layers by stage: each pool begins one."""
        stages: list[list[Layer]] = [[]]
        for layer in self.layers:
            stages += [[]] if layer[0] == "pool" else []
            stages[-1].append(layer)
        return stages

    @property
    def smallest_image(self) -> int:
        """The shortest side that leaves every pool a whole square."""
        side = 1
        for layer in reversed(self.layers):
            side = (side - 1) * layer_stride(layer) + (2 if layer[0] == "pool" else 1)
        return side


def layer_stride(layer: Layer) -> int:
    return layer[1] if layer[0] == "pool" else layer[3]


@register("simplenet", SimpleNetConfig)
class SimpleNet(Backbone):
    """SimpleNet v1. A stage ends where a pool begins; the embedding is the maximum over the last map."""

    config: SimpleNetConfig

    def __init__(self, config: SimpleNetConfig) -> None:
        super().__init__(config)
        dim, stride = config.in_channels, 1
        self.channels, self.strides = (), ()
        self.stages = nn.ModuleList()
        for layers in config.stages:
            stage = nn.Sequential()
            for layer in layers:
                stage.append(simplenet_layer(layer, dim, config.dropout_rate))
                dim, stride = layer[1] if layer[0] == "conv" else dim, stride * layer_stride(layer)
            self.stages.append(stage)
            self.channels, self.strides = (*self.channels, dim), (*self.strides, stride)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.head = classifier(dim, config.num_classes)
        self.stages.apply(init_conv_and_norm_)

    def maps(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, self.config.smallest_image)
        return pyramid(self.stages, channels_last(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.dropout(self.maps(image)[-1].amax((1, 2)))


def simplenet_layer(layer: Layer, in_dim: int, dropout_rate: float) -> nn.Sequential:
    if layer[0] == "pool":
        return nn.Sequential(MaxPool2d(2, stride=layer[1]), ChannelDropout(dropout_rate))
    _, dim, kernel_size, stride, dropout = layer
    conv = ConvNorm(in_dim, dim, kernel_size, stride=stride, bias=True, act=nn.ReLU())
    return nn.Sequential(conv, ChannelDropout(dropout_rate if dropout else 0.0))


class ChannelDropout(nn.Dropout2d):
    """`torch.nn.Dropout2d` for maps: (B, H, W, C) -> (B, H, W, C)."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def init_conv_and_norm_(layer: nn.Module) -> None:
    """Convolutions: Xavier-uniform weights. Batch norms: running statistics that follow slowly."""
    if isinstance(layer, nn.Conv2d):
        nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2))
    elif isinstance(layer, nn.BatchNorm2d):
        layer.momentum = 0.05


def variant(table: str, *, num_classes: int = 1000, scale: float = 1.0, stride_mode: int = 0) -> SimpleNetConfig:
    return SimpleNetConfig(layers=expand(table, scale=scale, stride_mode=stride_mode), num_classes=num_classes)


VARIANTS = {
    "simplenetv1_small_m1_05": variant("imagenet_5m", scale=0.5, stride_mode=1),
    "simplenetv1_small_m2_05": variant("imagenet_5m", scale=0.5, stride_mode=2),
    "simplenetv1_small_m1_075": variant("imagenet_5m", scale=0.75, stride_mode=1),
    "simplenetv1_small_m2_075": variant("imagenet_5m", scale=0.75, stride_mode=2),
    "simplenetv1_5m_m1": variant("imagenet_5m", stride_mode=1),
    "simplenetv1_5m_m2": variant("imagenet_5m", stride_mode=2),
    "simplenetv1_9m_m1": variant("imagenet_9m", stride_mode=1),
    "simplenetv1_9m_m2": variant("imagenet_9m", stride_mode=2),
}
VARIANTS |= {f"simplenet_{table}": variant(table, num_classes=10) for table in TABLES if table.startswith("cifar")}

REFERENCE_NAMES = [(r"^classifier\.", "head.")]


def convert_reference(state: dict[str, Tensor], model: SimpleNet) -> dict[str, Tensor]:
    """Finds the layer of each tensor: the reference counts convolutions, norms, activations and dropouts in one row."""
    places, number = {}, 0
    for i, stage in enumerate(model.config.stages):
        for j, layer in enumerate(stage):
            places[f"features.{number}"] = f"stages.{i}.{j}.0.conv"
            places[f"features.{number + 1}"] = f"stages.{i}.{j}.0.norm"
            number += 2 if layer[0] == "pool" else 3 + layer[4]
    modules = {name: name.rpartition(".") for name in state}
    return {f"{places.get(module, module)}.{leaf}": state[name] for name, (module, _, leaf) in modules.items()}
