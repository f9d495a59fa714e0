"""The half of a dense model that sees: any registered backbone, its maps as a pyramid."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import Backbone
from ommatid.models.config import Config, PartConfig, check_fields, require, require_positive
from ommatid.models.registry import Family, find, is_classifier
from ommatid.models.sizes import ceil_to_multiple, pair
from ommatid.nn.checkpointing import checkpoint_blocks_
from ommatid.nn.feature_pyramid import FeaturePyramid

COARSEST = 32
"""Stride of the coarsest map of most pyramids: images are padded to multiples of it at least."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(PartConfig):
    """What dense models on a backbone are configured by, beside their decoder's fields.

    `backbone` is the name of a variant or family, `backbone_fields` are fields of its config that differ from it.
    `image_size` is the size that the backbone's tables and windows are made for; None for its own. With `checkpoint`
    training keeps what goes into each block only, and computes the rest once more: less memory, more time.
    """

    backbone: str = "swin_tiny"
    backbone_fields: dict[str, Any] = field(default_factory=dict)
    image_size: int | tuple[int, int] | None = None
    in_channels: int = 3
    num_classes: int = 21
    drop_path_rate: float = 0.0
    checkpoint: bool = False

    def check(self) -> None:
        require_positive(in_channels=self.in_channels, num_classes=self.num_classes)
        config = self.backbone_config()[1]
        # As the family writes them, so that a config read from a file equals the one written.
        fields = {name: getattr(config, name) for name in self.backbone_fields}
        object.__setattr__(self, "backbone_fields", fields)

    def backbone_config(self) -> tuple[Family, Config]:
        """The backbone's family and config.

        Raises:
            ValueError: no such backbone, no such field of it, or an impossible value.
        """
        family, config = find(self.backbone)
        allowed = "an image classifier (`ommatid models`)"
        if not isinstance(config, Config):
            raise ValueError(f"backbone = {self.backbone!r} is not possible: allowed is {allowed}")
        check_fields(type(config), self.backbone_fields)
        sized = self.image_size is not None and "image_size" in {field.name for field in dataclasses.fields(config)}
        fields = {
            "in_channels": self.in_channels,
            "drop_path_rate": self.drop_path_rate,
            **({"image_size": self._padded_image_size()} if sized else {}),
            **self.backbone_fields,
            "num_classes": 0,
        }
        chosen = config.replace(**fields)
        require(is_classifier(family, chosen), "backbone", self.backbone, allowed)
        return family, chosen

    def _padded_image_size(self) -> int | tuple[int, int]:
        rows, columns = (ceil_to_multiple(side, COARSEST) for side in pair(self.image_size or 0))
        return rows if rows == columns else (rows, columns)


class Encoder(nn.Module):
    """Image (B, in_channels, H, W) -> maps (B, H'/s, W'/s, C_s), one for each stride s of the pyramid.

    H' and W' are H and W padded to multiples of the backbone's coarsest stride, at least 32, or up to the one size that
    it takes. Sides of maps are rounded up.

    Args:
        config: says which backbone.
        strides: of the maps, each a power of two; None for those of `pyramid_strides`.
    """

    def __init__(self, config: EncoderConfig, strides: tuple[int, ...] | None = None) -> None:
        super().__init__()
        family, backbone_config = config.backbone_config()
        backbone = family.build(backbone_config)
        assert isinstance(backbone, Backbone)
        if config.checkpoint:
            checkpoint_blocks_(backbone)
        self.backbone = backbone
        self.frozen = False
        self.strides = strides or pyramid_strides(coarsest_stride(backbone))
        self.pyramid = FeaturePyramid(backbone.channels, backbone.strides, self.strides)
        self.channels = self.pyramid.channels

    def forward(self, image: Tensor) -> list[Tensor]:
        padded = self.padded(image)
        return self.pyramid(self.backbone.maps(padded), (padded.shape[2], padded.shape[3]))

    def padded(self, image: Tensor) -> Tensor:
        """The image with zeros at the bottom and right, as the backbone sees it."""
        height, width = image.shape[-2:]
        rows, columns = self.padded_size(height, width)
        return F.pad(image, (0, columns - width, 0, rows - height))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Sides of the image as the backbone sees it.

        Raises:
            ValueError: the backbone takes one size only, and the image is larger.
        """
        return self.backbone.image_sizes.fitting(height, width, coarsest_stride(self.backbone))

    def freeze(self) -> None:
        """Makes training leave the backbone as it is."""
        self.frozen = True
        self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self


def backbone_of(name: str, channels: tuple[int, ...]) -> Backbone:
    """A registered image classifier without its classifier, for a decoder that takes maps of these widths.

    Raises:
        ValueError: there is no such classifier, or its maps have other widths.
    """
    family, config = find(name)
    require(is_classifier(family, config), "backbone", name, "an image classifier (`ommatid models`)")
    backbone = family.build(config.replace(num_classes=0))
    assert isinstance(backbone, Backbone)
    require(backbone.channels == channels, "in_dims", channels, f"{backbone.channels}, of the backbone")
    return backbone


def coarsest_stride(backbone: Backbone) -> int:
    """The power of two nearest to the coarsest stride of a backbone, at least 32."""
    return max(COARSEST, 2 ** round(math.log2(max(backbone.strides))))


def pyramid_strides(coarsest: int) -> tuple[int, ...]:
    """The strides that decoders work at: 4, 8, 16 and 32, or 4 and the coarsest three where a backbone is coarser."""
    return (4, coarsest // 4, coarsest // 2, coarsest)
