"""Multi-scale self-guided attention on any backbone, with the losses it was published with.

"Multi-scale self-guided attention for medical image segmentation" (arXiv 1906.02849).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.models.decoders.encoder import Encoder, EncoderConfig
from ommatid.models.decoders.guided_attention import Guided, GuidedAttention, check_dim
from ommatid.models.dense import MaskSegmenter
from ommatid.models.registry import register
from ommatid.ops.resize import resample

SEMANTIC, RECONSTRUCTION = 0.25, 0.1
"""Weights of the terms of the loss beside the predictions'."""


@dataclass(frozen=True, kw_only=True)
class GuidedSegmenterConfig(EncoderConfig):
    """`decoder_dim` is the width of all levels."""

    decoder_dim: int = 64

    def check(self) -> None:
        super().check()
        check_dim("decoder_dim", self.decoder_dim)


@register("guided_segmenter", GuidedSegmenterConfig)
class GuidedSegmenter(MaskSegmenter):
    """Multi-scale self-guided attention (arXiv 1906.02849) on any backbone, with the losses it was published with."""

    config: GuidedSegmenterConfig

    def __init__(self, config: GuidedSegmenterConfig) -> None:
        super().__init__(config)
        self.num_classes = config.num_classes
        self.encoder = Encoder(config)
        self.no_decay = self.encoder.backbone.no_decay
        self.decoder = GuidedAttention(self.encoder.channels, config.decoder_dim, config.num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.enlarged(self.decoder(self.encoder(image)).logits, image)

    def losses(self, image: Tensor, label: Tensor, *, ignored: int = 255) -> dict[str, Tensor]:
        """Cross-entropy of all predictions of all levels, and what `Guided.losses` says."""
        guided: Guided = self.decoder(self.encoder(image))
        counted = (label != ignored).sum().clamp(min=1)
        predictions = [self.enlarged(cells, image) for cells in (*guided.first, *guided.second)]
        totals = [F.cross_entropy(each, label.long(), ignore_index=ignored, reduction="sum") for each in predictions]
        terms = guided.losses()
        return {
            "classes": torch.stack(totals).sum() / counted,
            "semantic": SEMANTIC * terms["semantic"].sum(),
            "reconstruction": RECONSTRUCTION * terms["reconstruction"].sum(),
        }

    def enlarged(self, cells: Tensor, image: Tensor) -> Tensor:
        """(B, h, w, K) -> (B, K, H, W)."""
        height, width = image.shape[-2:]
        padded = self.encoder.padded_size(height, width)
        return resample(cells, padded, mode="bilinear")[:, :height, :width].permute(0, 3, 1, 2)
