"""The self-attention convolution of TiC, the layer that its authors published.

"TiC: Exploring Vision Transformer in Convolution" (arXiv 2310.04134).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.model import Model
from ommatid.models.registry import register
from ommatid.models.sizes import pair
from ommatid.nn.mixers import SelfAttentionConv


@dataclass(frozen=True, kw_only=True)
class TiCConfig(PartConfig):
    """`dilation` is that of the attention's windows; `stride`, `padding` and `bias` are the convolution's."""

    in_channels: int = 64
    dim: int = 64
    kernel_size: int | tuple[int, int] = 3
    stride: int = 1
    dilation: int = 1
    padding: int = 1
    bias: bool = False

    def check(self) -> None:
        require_positive(
            in_channels=self.in_channels,
            dim=self.dim,
            kernel_size=self.kernel_size,
            stride=self.stride,
            dilation=self.dilation,
        )
        centred = all(self.dilation * (side - 1) % 2 == 0 for side in pair(self.kernel_size))
        require(centred, "kernel_size", self.kernel_size, "odd, or with dilation * (side - 1) even")
        require(self.padding >= 0, "padding", self.padding, "0 or more")


@register("tic", TiCConfig)
class TiC(Model):
    """Takes and gives channels-first feature maps: (B, C, H, W) -> (B, D, H', W')."""

    config: TiCConfig

    def __init__(self, config: TiCConfig) -> None:
        super().__init__(config)
        self.mixer = SelfAttentionConv(
            config.in_channels,
            config.kernel_size,
            out_dim=config.dim,
            stride=config.stride,
            dilation=config.dilation,
            padding=config.padding,
            bias=config.bias,
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.mixer(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def reference_outputs(model: TiC, image: Tensor) -> dict[str, Tensor]:
    return {"attention": model.mixer.attention(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)}


REFERENCE_NAMES = [
    (r"^qkv_conv\.", "mixer.qkv."),
    (r"^mlp\.", "mixer.conv."),
]
