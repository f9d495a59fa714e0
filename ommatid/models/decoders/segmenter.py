"""Semantic segmentation: any backbone under any of the decoders."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ommatid.models.config import require, require_positive, suggest
from ommatid.models.decoders.all_mlp import all_mlp
from ommatid.models.decoders.daformer import daformer
from ommatid.models.decoders.encoder import Encoder, EncoderConfig
from ommatid.models.decoders.linear_head import LinearHead
from ommatid.models.decoders.semantic_fpn import SemanticFPN
from ommatid.models.decoders.unet import UNet
from ommatid.models.decoders.upernet import UPerNet
from ommatid.models.decoders.vwformer import VWFormerDecoder
from ommatid.models.dense import Segmenter
from ommatid.models.registry import register
from ommatid.ops.resize import resample

DECODERS: dict[str, Callable[..., nn.Module]] = {
    "daformer": daformer,
    "linear": LinearHead,
    "mlp": all_mlp,
    "semantic_fpn": SemanticFPN,
    "unet": UNet,
    "upernet": UPerNet,
    "vwformer": VWFormerDecoder,
}
"""Each is made of the widths of the maps, fine to coarse, and its own width `dim`; further arguments have defaults."""


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(EncoderConfig):
    """`decoder` is a name in DECODERS, `decoder_dim` its width, `decoder_fields` are further arguments of it."""

    decoder: str = "mlp"
    decoder_dim: int = 256
    decoder_fields: dict[str, Any] = field(default_factory=dict)
    dropout: float = 0.1

    def check(self) -> None:
        super().check()
        allowed = ", ".join(DECODERS) + suggest(self.decoder, DECODERS)
        require(self.decoder in DECODERS, "decoder", self.decoder, allowed)
        require_positive(decoder_dim=self.decoder_dim)
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 up to, not including, 1")
        known = [
            name for name in inspect.signature(DECODERS[self.decoder]).parameters if name not in ("channels", "dim")
        ]
        for name in self.decoder_fields:
            allowed = (", ".join(known) or f"none: {self.decoder} has no further fields") + suggest(name, known)
            require(name in known, "decoder_fields", name, allowed)


@register("segmenter", SegmenterConfig)
class BackboneSegmenter(Segmenter):
    """A backbone's pyramid, a decoder, and a linear classifier of its cells, enlarged to pixels."""

    config: SegmenterConfig

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config)
        self.num_classes = config.num_classes
        self.encoder = Encoder(config)
        self.no_decay = self.encoder.backbone.no_decay
        self.decoder = DECODERS[config.decoder](self.encoder.channels, config.decoder_dim, **config.decoder_fields)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.decoder_dim, config.num_classes)

    def forward(self, image: Tensor) -> Tensor:
        cells = self.classifier(self.dropout(self.decoder(self.encoder(image))))
        height, width = image.shape[-2:]
        padded = self.encoder.padded_size(height, width)
        return resample(cells, padded, mode="bilinear")[:, :height, :width].permute(0, 3, 1, 2)
