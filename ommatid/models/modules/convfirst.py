"""The ConvFirst block, the two that it is measured against, and what bounds their speed.

"On the Efficiency of Convolutional Neural Networks" (arXiv 2404.03617).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.model import Model
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.conv import ConvNorm
from ommatid.nn.convfirst import ConvFirst, in_tiles
from ommatid.nn.mbconv import MBConv
from ommatid.nn.waterline import ConvShape, attainable

ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU}


@dataclass(frozen=True, kw_only=True)
class ConvFirstConfig(PartConfig):
    """The block "mlp" has no spatial convolution. `tile` is the side of the tiles of `in_tiles`.

    Only the function "analysis" reads what follows `tile`: the batch and size of the maps, the bytes of a number, and
    the machine's operations and bytes per second.
    """

    function: Literal["block", "analysis"] = "block"
    block: Literal["convfirst", "mbconv", "mlp"] = "convfirst"
    in_channels: int = 64
    out_channels: int = 64
    kernel_size: int = 3
    stride: int = 1
    group_width: int = 8
    expansion: float = 4
    act: Literal["silu", "gelu", "relu"] = "silu"
    tile: int = 8
    batch: int = 1
    height: int = 56
    width: int = 56
    bytes_per_element: float = 2
    peak_flops: float = 1.111e14
    bandwidth: float = 7.68e11

    def check(self) -> None:
        require_positive(in_channels=self.in_channels, out_channels=self.out_channels, stride=self.stride)
        require_positive(expansion=self.expansion, group_width=self.group_width, tile=self.tile)
        require(self.kernel_size % 2 == 1, "kernel_size", self.kernel_size, "an odd integer")
        grouped = {"convfirst": self.in_channels, "mbconv": self.hidden, "mlp": self.group_width}[self.block]
        divides = grouped % self.group_width == 0
        require(divides, "group_width", self.group_width, f"a divisor of the convolved width ({grouped})")

    @property
    def hidden(self) -> int:
        return int(self.in_channels * self.expansion)

    @property
    def has_shortcut(self) -> bool:
        return self.in_channels == self.out_channels and (self.stride == 1 or self.block == "mlp")


@register("convfirst", ConvFirstConfig)
class ConvFirstBlock(Model):
    """Takes and gives channels-first maps: (B, C_in, H, W) -> (B, C, H / s, W / s)."""

    config: ConvFirstConfig

    def __init__(self, config: ConvFirstConfig) -> None:
        super().__init__(config)
        self.block = _block(config)

    def forward(self, image: Tensor) -> Tensor:
        features = image.permute(0, 2, 3, 1)
        return self._with_shortcut(features, self.block(features))

    def forward_in_tiles(self, image: Tensor) -> Tensor:
        """As `forward`, in the memory of one tile beside input and answer. Not for the block "mlp"."""
        features = image.permute(0, 2, 3, 1)
        assert isinstance(self.block, ConvFirst | MBConv)
        return self._with_shortcut(features, in_tiles(self.block, features, self.config.tile))

    def _with_shortcut(self, features: Tensor, mixed: Tensor) -> Tensor:
        return (features + mixed if self.config.has_shortcut else mixed).permute(0, 3, 1, 2)


def _block(config: ConvFirstConfig) -> nn.Module:
    act = ACTIVATIONS[config.act]()
    dims = config.in_channels, config.out_channels, config.hidden
    if config.block == "mlp":
        expand = ConvNorm(config.in_channels, config.hidden, 1, act=act)
        return nn.Sequential(expand, ConvNorm(config.hidden, config.out_channels, 1))
    make = ConvFirst if config.block == "convfirst" else MBConv
    return make(
        *dims, kernel_size=config.kernel_size, stride=config.stride, group_width=config.group_width, act=act
    )  # fmt: skip


@register_part("convfirst", "analysis")
class Analysis(Procedure):
    """The block's operations, traffic and best times on the machine of the config; takes no inputs."""

    config: ConvFirstConfig

    def forward(self) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        found = attainable(
            block_layers(config),
            batch=config.batch,
            element=config.bytes_per_element,
            peak=config.peak_flops,
            bandwidth=config.bandwidth,
        )
        efficiencies = [found.ideal / found.layer_by_layer, found.ideal / found.fused]
        outputs = {
            "ops_mega": [work / 1e6 for work in found.operations],
            "bytes_mega": [data / 1e6 for data in found.bytes_moved],
            "intensity": found.intensity,
            "waterline": [found.waterline],
            "layer_efficiency": found.layer_efficiency,
            "sequence_efficiency": efficiencies[:1],
            "fused_bytes_mega": [found.fused_bytes / 1e6],
            "fused_intensity": [sum(found.operations) / found.fused_bytes],
            "fused_efficiency": efficiencies[1:],
            "times_us": [1e6 * time for time in (found.ideal, found.layer_by_layer, found.fused)],
            "efficiency_gap": [-math.log10(efficiency) for efficiency in efficiencies],
        }
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in outputs.items()}


def block_layers(config: ConvFirstConfig) -> list[ConvShape]:
    """The convolutions of the block, in order."""
    full = (config.height, config.width)
    pad = config.kernel_size // 2
    strided = tuple((side + 2 * pad - config.kernel_size) // config.stride + 1 for side in full)
    small = full if config.block == "mlp" else (strided[0], strided[1])
    narrow, wide, out = config.in_channels, config.hidden, config.out_channels

    def spatial(dim: int) -> ConvShape:
        return ConvShape(dim, dim, full, small, config.kernel_size, dim // config.group_width)

    last = ConvShape(wide, out, small, small)
    if config.block == "convfirst":
        return [spatial(narrow), ConvShape(narrow, wide, small, small), last]
    expand = ConvShape(narrow, wide, full, full)
    return [expand, spatial(wide), last] if config.block == "mbconv" else [expand, last]


# Of each block: what the reference's layers 0, 1, ... are.
LAYERS = {
    "convfirst": ["conv.conv", "conv.norm", "expand.conv", "expand.norm", "", "reduce.conv", "reduce.norm"],
    "mbconv": ["expand.conv", "expand.norm", "", "conv.conv", "conv.norm", "", "reduce.conv", "reduce.norm"],
    "mlp": ["0.conv", "0.norm", "", "1.conv", "1.norm"],
}


def convert_reference(state: dict[str, Tensor], model: ConvFirstBlock) -> dict[str, Tensor]:
    layers = LAYERS[model.config.block]
    return {
        re.sub(r"^layers\.(\d+)\.", lambda match: f"block.{layers[int(match[1])]}.", name): value
        for name, value in state.items()
    }
