"""ULSAM, as the part that its authors put between the layers of MobileNets.

"ULSAM: Ultra-Lightweight Subspace Attention Module for Compact Convolutional Neural Networks" (arXiv 2006.15102).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from ommatid.models.config import PartConfig, require
from ommatid.models.model import Model
from ommatid.models.registry import register
from ommatid.nn.mixers import SubspaceAttention


@dataclass(frozen=True, kw_only=True)
class ULSAMConfig(PartConfig):
    channels: int = 512
    num_splits: int = 4

    def check(self) -> None:
        divides = self.num_splits > 0 and self.channels % self.num_splits == 0
        require(divides, "num_splits", self.num_splits, f"a divisor of channels ({self.channels})")


@register("ulsam", ULSAMConfig)
class ULSAM(Model):
    """Takes and gives channels-first feature maps: (B, C, H, W) -> (B, C, H, W)."""

    config: ULSAMConfig

    def __init__(self, config: ULSAMConfig) -> None:
        super().__init__(config)
        self.mixer = SubspaceAttention(config.channels, config.num_splits)

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


VARIANTS = {f"ulsam_{splits}": ULSAMConfig(num_splits=splits) for splits in (1, 2, 4, 8, 16)}

REFERENCE_NAMES = [
    (r"^conv_dws\.", "mixer.channel.conv."),
    (r"^bn_dws\.", "mixer.channel.norm."),
    (r"^conv_point\.", "mixer.point.conv."),
    (r"^bn_point\.", "mixer.point.norm."),
]


def convert_reference(state: dict[str, Tensor], model: ULSAM) -> dict[str, Tensor]:
    """Joins the groups, which the reference keeps as modules of their own."""
    groups: dict[str, list[Tensor]] = {}
    for name in sorted(state, key=lambda name: int(re.findall(r"\d+", name)[0])):
        groups.setdefault(re.sub(r"^subspaces\.\d+\.", "", name), []).append(state[name])
    return {name: values[0] if values[0].dim() == 0 else torch.cat(values) for name, values in groups.items()}
