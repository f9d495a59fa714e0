"""FeatEnHancer: an image made lighter for the network that reads it, by features of three scales.

"FeatEnHancer: Enhancing Hierarchical Features for Object Detection and Beyond Under Low-Light Vision" (ICCV 2023).
Published in front of a detector, whose loss alone trains it; here it is trained like any restoration network as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.registry import register
from ommatid.models.restorer import Restorer, Sides
from ommatid.nn.conv import Conv2d
from ommatid.ops.resize import resample_corners

COLOURS = 3
SMALLEST = 15
"""Pixels of a side that strides of 4 and 2 without padding leave one cell of."""


@dataclass(frozen=True, kw_only=True)
class FeatEnHancerConfig(PartConfig):
    """`out_channels` are several changes of the three colours, which are added up; `heads` weigh scales apart."""

    mid_channels: int = 32
    out_channels: int = 24
    heads: int = 8

    def check(self) -> None:
        require_positive(mid_channels=self.mid_channels, out_channels=self.out_channels)
        whole = self.out_channels % COLOURS == 0
        require(whole, "out_channels", self.out_channels, f"a multiple of {COLOURS}")
        require_divisible(self.out_channels, self.heads)


class Scales(NamedTuple):
    """Features (B, H, W, C) of the image, of its quarter (B, h, w, C), and both joined, (B, H, W, C)."""

    full: Tensor
    quarter: Tensor
    joined: Tensor


class FeatureExtractor(nn.Module):
    """Seven 3x3 convolutions, the last three of which also read earlier ones: (B, H, W, 3) -> (B, H, W, C_out).

    Cost: 9 H W (8 C^2 + 3 C + 2 C C_out) multiply-adds. There is no activation at the end.

    Args:
        dim: C.
        out_dim: C_out.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        widths = [
            (COLOURS, dim),
            (dim, dim),
            (dim, dim),
            (dim, dim),
            (2 * dim, dim),
            (2 * dim, dim),
            (2 * dim, out_dim),
        ]
        self.convs = nn.ModuleList(conv3x3(*pair) for pair in widths)

    def forward(self, image: Tensor) -> Tensor:
        first, second, third, fourth, fifth, sixth, last = self.convs
        x1 = first(image).relu()
        x2 = second(x1).relu()
        x3 = third(x2).relu()
        x4 = fourth(x3).relu()
        x5 = fifth(torch.cat([x3, x4], dim=-1)).relu()
        x6 = sixth(torch.cat([x2, x5], dim=-1)).relu()
        return last(torch.cat([x1, x6], dim=-1))


class ScaleAggregation(nn.Module):
    """Two scales weighed by how much each is like the coarser one: (B, H, W, C), (B, h, w, C) -> (B, h', w', C).

    h and w are (H - 7) // 4 + 1 and so on, h' and w' are (h - 3) // 2 + 1. Every head weighs its channels by itself.
    Cost: (49 h w + 18 h' w') C^2 multiply-adds.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Sequential(Conv2d(dim, dim, 7, stride=4), Conv2d(dim, dim, 3, stride=2))
        self.key = Conv2d(dim, dim, 3, stride=2)

    def forward(self, full: Tensor, quarter: Tensor) -> Tensor:
        key = self.key(quarter)
        scales = torch.stack([self.query(full), key]).unflatten(-1, (self.heads, -1))  # (2, B, h', w', heads, d)
        scores = (scales * scales[1]).sum(-1, keepdim=True) * scales.shape[-1] ** -0.5
        return (scores.softmax(0) * scales).sum(0).flatten(-2)


@register("featenhancer", FeatEnHancerConfig)
class FeatEnHancer(Restorer):
    """Takes any picture; sides below 15 pixels are continued by their last row or column, and cut off again."""

    config: FeatEnHancerConfig

    def __init__(self, config: FeatEnHancerConfig) -> None:
        super().__init__(config)
        dim, out_dim = config.mid_channels, config.out_channels
        self.quarter = Conv2d(COLOURS, COLOURS, 7, stride=4)
        self.eighth = Conv2d(COLOURS, COLOURS, 3, stride=2)
        self.extract = FeatureExtractor(dim, out_dim)
        self.aggregate = ScaleAggregation(out_dim, config.heads)
        self.join = conv3x3(2 * out_dim, dim)
        self.changes = conv3x3(dim, out_dim)
        for conv in (module for module in self.modules() if isinstance(module, Conv2d)):
            nn.init.normal_(conv.weight, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        small = min(height, width) < SMALLEST
        padding = (0, max(SMALLEST - width, 0), 0, max(SMALLEST - height, 0))
        return self.restore(F.pad(image, padding, mode="replicate") if small else image)[..., :height, :width]

    def restore(self, image: Tensor) -> Tensor:
        scales, coarsest = self.scales(channels_last(image))
        size = (image.shape[2], image.shape[3])
        fine = torch.cat([scales.joined, resample_corners(coarsest, size)], dim=-1)
        changes = self.changes(self.join(fine)).tanh().unflatten(-1, (-1, COLOURS)).sum(-2)
        return image + changes.permute(0, 3, 1, 2)

    def scales(self, image: Tensor) -> tuple[Scales, Tensor]:
        """(B, H, W, 3) -> its features, and those of an eighth of it, (B, h', w', C)."""
        quarter = self.quarter(image)
        full, fourth = self.extract(image).relu(), self.extract(quarter).relu()
        joined = full + resample_corners(self.aggregate(full, fourth), (image.shape[1], image.shape[2]))
        return Scales(full, fourth, joined), self.extract(self.eighth(quarter))

    def exported_sides(self) -> Sides:
        return Sides(shortest=SMALLEST)


def conv3x3(in_dim: int, dim: int) -> Conv2d:
    return Conv2d(in_dim, dim, 3, padding=1)


def reference_outputs(model: FeatEnHancer, image: Tensor) -> dict[str, Tensor]:
    scales, _ = model.scales(channels_last(image))
    full, quarter, joined = (features.permute(0, 3, 1, 2) for features in scales)
    return {
        "full_features_every6": full[:, ::6],
        "quarter_features": quarter,
        "aggregated_every6": joined[:, ::6],
        "image": model(image),
    }


VARIANTS = {"featenhancer": FeatEnHancerConfig()}

REFERENCE_NAMES = [
    (r"^e_conv(\d)\.", lambda match: f"extract.convs.{int(match[1]) - 1}."),
    (r"^ue_conv8\.", "join."),
    (r"^ue_conv9\.", "changes."),
    (r"^quarter_conv\.", "quarter."),
    (r"^hexa_conv\.", "eighth."),
    (r"^scale_aware_aggregation\.query_conv1\.", "aggregate.query.0."),
    (r"^scale_aware_aggregation\.query_conv2\.", "aggregate.query.1."),
    (r"^scale_aware_aggregation\.key_conv\.", "aggregate.key."),
]
