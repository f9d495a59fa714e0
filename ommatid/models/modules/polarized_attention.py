"""Polarized self-attention, as the part that its authors put into the blocks of HRNet.

"Polarized Self-Attention: Towards High-quality Pixel-wise Regression" (arXiv 2107.00782).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ommatid.models.config import PartConfig, require
from ommatid.models.model import Model
from ommatid.models.registry import register
from ommatid.nn.mixers import ParallelPolarizedAttention, SequentialPolarizedAttention

LAYOUTS = {"parallel": ParallelPolarizedAttention, "sequential": SequentialPolarizedAttention}


@dataclass(frozen=True, kw_only=True)
class PolarizedAttentionConfig(PartConfig):
    layout: Literal["parallel", "sequential"] = "parallel"
    channels: int = 256

    def check(self) -> None:
        smallest = {"parallel": 2, "sequential": 8}[self.layout]
        require(self.channels >= smallest, "channels", self.channels, f"{smallest} or more in this layout")


@register("polarized_attention", PolarizedAttentionConfig)
class PolarizedAttention(Model):
    """Takes and gives channels-first feature maps: (B, C, H, W) -> (B, C, H, W)."""

    config: PolarizedAttentionConfig

    def __init__(self, config: PolarizedAttentionConfig) -> None:
        super().__init__(config)
        self.mixer = LAYOUTS[config.layout](config.channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


VARIANTS = {
    f"polarized_attention_{layout}": PolarizedAttentionConfig(layout=layout) for layout in ("parallel", "sequential")
}

REFERENCE_NAMES = [
    (r"^conv_q_right\.", "mixer.channel_gate.query."),
    (r"^conv_v_right\.", "mixer.channel_gate.value."),
    (r"^conv_up\.", "mixer.channel_gate.expand."),
    (r"^conv_q_left\.", "mixer.spatial_gate.query."),
    (r"^conv_v_left\.", "mixer.spatial_gate.value."),
]
