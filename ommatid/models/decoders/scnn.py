"""SCNN: lanes found by a VGG whose rows and columns pass messages.

"Spatial As Deep: Spatial CNN for Traffic Scene Understanding" (arXiv 1712.06080).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.model import Model
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import pair, require_exactly
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.message_passing import MessagePassing
from ommatid.nn.pool import AvgPool2d, MaxPool2d

STRIDE = 8
DIM = 128
CLASS_WEIGHTS = (0.4, 1.0, 1.0, 1.0, 1.0)
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Widths of the 3x3 convolutions of VGG-16; pools follow the first three groups, the last group is dilated."""


@dataclass(frozen=True, kw_only=True)
class SCNNConfig(PartConfig):
    """`part` "module" is message passing alone, with `channels`; "network" reads the other fields."""

    part: Literal["module", "network"] = "network"
    channels: int = DIM
    kernel_size: int = 9
    image_size: int | tuple[int, int] = (288, 800)
    num_classes: int = 5

    def check(self) -> None:
        require_positive(channels=self.channels, kernel_size=self.kernel_size)
        require(self.kernel_size % 2 == 1, "kernel_size", self.kernel_size, "an odd number")
        require(self.num_classes >= 2, "num_classes", self.num_classes, "2 (background and a lane) or more")
        large = min(pair(self.image_size)) >= 2 * STRIDE
        require(large, "image_size", self.image_size, f"at least {2 * STRIDE} a side")


@register("scnn", SCNNConfig)
class SCNN(Model):
    """Images (B, 3, H, W) of `image_size` -> where each lane is, and whether it is there.

    logits (B, K, 8 h, 8 w) of background and K - 1 lanes, low_logits (B, K, h, w), and exist (B, K - 1) from 0 to 1;
    h and w are H and W over 8, rounded down.
    """

    config: SCNNConfig

    def __init__(self, config: SCNNConfig) -> None:
        super().__init__(config)
        rows, columns = (side // (2 * STRIDE) for side in pair(config.image_size))
        self.backbone = dilated_vgg()
        self.neck = nn.Sequential(
            ConvNorm(VGG[-1][-1], 1024, 3, dilation=4, act=nn.ReLU()), ConvNorm(1024, DIM, 1, act=nn.ReLU())
        )
        self.message_passing = MessagePassing(DIM, config.kernel_size)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = Conv2d(DIM, config.num_classes, 1)
        self.pool = AvgPool2d(2)
        self.exist = nn.Sequential(
            nn.Linear(config.num_classes * rows * columns, 128), nn.ReLU(), nn.Linear(128, config.num_classes - 1)
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        require_exactly(image, self.config.image_size)
        features = self.message_passing(self.neck(self.backbone(channels_last(image))))
        dropped = self.dropout(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        low = self.classifier(dropped)
        shares = self.pool(low.softmax(-1)).permute(0, 3, 1, 2)
        low = low.permute(0, 3, 1, 2)
        logits = F.interpolate(low, scale_factor=STRIDE, mode="bilinear", align_corners=True)
        return {"logits": logits, "exist": self.exist(shares.flatten(1)).sigmoid(), "low_logits": low}

    def losses(self, image: Tensor, lanes: Tensor, exist: Tensor, *, exist_weight: float = 0.1) -> dict[str, Tensor]:
        """The published loss, by terms.

        Args:
            image: (B, 3, H, W).
            lanes: (B, 8 h, 8 w) integers, 0 for background.
            exist: (B, K - 1) of 0 and 1.
            exist_weight: 0.1 for CULane, 0.07 for TuSimple.
        """
        answer = self(image)
        logits = answer["logits"]
        weight = logits.new_tensor([CLASS_WEIGHTS[0], *[1.0] * (self.config.num_classes - 1)])
        return {
            "lanes": F.cross_entropy(logits, lanes, weight),
            "exist": exist_weight * F.binary_cross_entropy(answer["exist"], exist.to(logits.dtype)),
        }


@register_part("scnn", "module")
class SCNNModule(Model):
    """x (B, C, H, W) -> features (B, C, H, W)."""

    def __init__(self, config: SCNNConfig) -> None:
        super().__init__(config)
        self.message_passing = MessagePassing(config.channels, config.kernel_size)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"features": self.message_passing(channels_last(x)).permute(0, 3, 1, 2)}


def dilated_vgg() -> nn.Sequential:
    """VGG-16 with batch norms, without its last two pools: (B, H, W, 3) -> (B, H // 8, W // 8, 512)."""
    layers: list[nn.Module] = []
    in_dim = 3
    for group, widths in enumerate(VGG):
        for dim in widths:
            dilation = 2 if group == len(VGG) - 1 else 1
            layers.append(ConvNorm(in_dim, dim, 3, dilation=dilation, bias=True, act=nn.ReLU()))
            in_dim = dim
        if group < 3:
            layers.append(MaxPool2d(2))
    return nn.Sequential(*layers)


VARIANTS = {"scnn_culane": SCNNConfig(), "scnn_tusimple": SCNNConfig(image_size=(288, 512))}

_CONVS = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
"""Where the reference, which counts convolution, norm, activation and pool apart, has each convolution."""


def _vgg_name(match: re.Match[str]) -> str:
    place = int(match[1])
    conv = place if place in _CONVS else place - 1
    pools = sum(conv > pool for pool in (6, 13, 23))
    return f"backbone.{_CONVS.index(conv) + pools}.{'conv' if place == conv else 'norm'}."


REFERENCE_NAMES = [
    (r"^backbone\.(\d+)\.", _vgg_name),
    (r"^layer1\.0\.", "neck.0.conv."),
    (r"^layer1\.1\.", "neck.0.norm."),
    (r"^layer1\.3\.", "neck.1.conv."),
    (r"^layer1\.4\.", "neck.1.norm."),
    (r"^layer2\.1\.", "classifier."),
    (r"^fc\.", "exist."),
    (r"^message_passing\.", "message_passing.passes."),
]

REFERENCE_IGNORED = [r"^ce_loss\.weight$"]
