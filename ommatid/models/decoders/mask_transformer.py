"""Mask transformers on any backbone, and the answers that all of them give from their queries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import masks_to_boxes

from ommatid.models.config import require_positive
from ommatid.models.decoders.encoder import Encoder, EncoderConfig
from ommatid.models.decoders.kmax_deeplab import KMaxHead, KMaxHeadConfig
from ommatid.models.decoders.mask2former_decoder import MaskHeadConfig, mask_head
from ommatid.models.decoders.mask_losses import mask_losses
from ommatid.models.decoders.masked_attention import Prediction
from ommatid.models.decoders.pem import PEMHeadConfig, pem_head
from ommatid.models.dense import Detections, MaskTransformer, Targets
from ommatid.models.registry import register

WHOLE = 0.8
"""Share of a query's mask that must be left to it by the stronger ones, for a segment of its own."""

LARGEST = math.log(1e6)
"""Of log-odds."""


class MaskAnswers(MaskTransformer):
    """The answers that follow from what a mask transformer says as a `whole`."""

    def semantic(self, image: Tensor) -> Tensor:
        class_logits, masks = self.whole(image)
        return torch.einsum("bqk,bqhw->bkhw", class_logits.softmax(-1)[..., :-1], masks.sigmoid())

    @torch.no_grad()
    def detect(self, image: Tensor, *, score_threshold: float = 0.05, most: int = 100) -> Detections:
        """The contract's; a score is that of the class times the mean of the mask where it is."""
        class_logits, masks = self.whole(image)
        return [
            self._things(scores, mask, score_threshold, most)
            for scores, mask in zip(class_logits.softmax(-1)[..., :-1], masks, strict=True)
        ]

    def _things(self, scores: Tensor, logits: Tensor, score_threshold: float, most: int) -> dict[str, Tensor]:
        """Detections of one image, from (Q, K) scores and (Q, H, W) mask logits."""
        masks = logits > 0
        areas = masks.flatten(1).sum(1)
        certainty = (logits.sigmoid() * masks).flatten(1).sum(1) / areas.clamp(min=1)
        quality = (scores * certainty[:, None] * (areas > 0)[:, None]).flatten()
        score, index = quality.topk(min(most, len(quality)))
        kept = (score >= score_threshold) & (score > 0)
        score, query, label = score[kept], index[kept] // self.num_classes, index[kept] % self.num_classes
        seen = masks[query]
        boxes = masks_to_boxes(seen) + scores.new_tensor([0, 0, 1, 1])
        return {"boxes": boxes, "scores": score, "labels": label, "masks": seen}

    @torch.no_grad()
    def panoptic(
        self, image: Tensor, *, things: tuple[int, ...] | None = None, score_threshold: float = 0.8
    ) -> list[dict[str, Tensor]]:
        class_logits, masks = self.whole(image)
        kinds = set(range(self.num_classes) if things is None else things)
        return [
            segmented(classes.softmax(-1), mask.sigmoid(), kinds, score_threshold)
            for classes, mask in zip(class_logits, masks, strict=True)
        ]


class BackboneMaskTransformer(MaskAnswers):
    """Base of the mask transformers on a backbone, which define `predictions`.

    The losses are those of Mask2Former for all: kMaX-DeepLab's own objective is not part of its specification.
    """

    encoder: Encoder
    points: int

    def predictions(self, image: Tensor) -> list[Prediction]:
        """(B, in_channels, H, W) -> class and mask logits of every step of the decoder, the last at the end."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        class_logits, mask_logits = self.predictions(image)[-1]
        return {"class_logits": class_logits, "mask_logits": mask_logits}

    def losses(self, image: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Cross-entropy of the classes, and cross-entropy and Dice of the masks at points, after every layer."""
        size = self.encoder.padded_size(image.shape[2], image.shape[3])
        return mask_losses(self.predictions(image), targets, size, self.points)

    def whole(self, image: Tensor) -> tuple[Tensor, Tensor]:
        answer = self(image)
        height, width = image.shape[-2:]
        size = self.encoder.padded_size(height, width)
        masks = F.interpolate(answer["mask_logits"].float(), size=size, mode="bilinear", align_corners=False)
        return answer["class_logits"].float(), masks[..., :height, :width]


def segmented(classes: Tensor, masks: Tensor, things: set[int], score_threshold: float) -> dict[str, Tensor]:
    """The segments of one image: every pixel goes to its strongest query.

    Args:
        classes: (Q, K + 1) probabilities. masks: (Q, H, W) probabilities.
        things: classes whose instances stay apart.
        score_threshold: queries below it make no segment.
    """
    score, label = classes.max(-1)
    kept = (label < classes.shape[1] - 1) & (score >= score_threshold)
    score, label, masks = score[kept], label[kept], masks[kept]
    segments = torch.zeros(masks.shape[1:], dtype=torch.long, device=masks.device)
    found: list[tuple[int, Tensor]] = []
    joined: dict[int, int] = {}
    owner = (score[:, None, None] * masks).argmax(0) if len(masks) else segments
    for query, kind in enumerate(label.tolist()):
        whole = masks[query] >= 0.5
        own = whole & (owner == query)
        if not own.any() or own.sum() < WHOLE * whole.sum():
            continue
        if kind not in things and kind in joined:
            segments[own] = joined[kind]
            continue
        found.append((kind, score[query]))
        segments[own] = joined[kind] = len(found)
    labels = torch.tensor([kind for kind, _ in found], dtype=torch.long, device=masks.device)
    return {
        "segments": segments,
        "labels": labels,
        "scores": torch.stack([s for _, s in found]) if found else score[:0],
    }


@dataclass(frozen=True, kw_only=True)
class Mask2FormerConfig(MaskHeadConfig, EncoderConfig):
    """Fields of the backbone and of the head. `points` of each mask are compared in training."""

    points: int = 12544

    def check(self) -> None:
        EncoderConfig.check(self)
        MaskHeadConfig.check(self)
        require_positive(points=self.points)


@register("mask2former", Mask2FormerConfig)
class Mask2Former(BackboneMaskTransformer):
    """ "Masked-attention Mask Transformer for Universal Image Segmentation" (arXiv 2112.01527) on any backbone."""

    config: Mask2FormerConfig

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__(config)
        self.num_classes, self.points = config.num_classes, config.points
        self.encoder = Encoder(config)
        self.decoder, self.queries = mask_head(config, self.encoder.channels)
        self.no_decay = (*self.encoder.backbone.no_decay, "level", "query", "position")

    def predictions(self, image: Tensor) -> list[Prediction]:
        return self.queries(*self.decoder(self.encoder(image)))


@dataclass(frozen=True, kw_only=True)
class PEMMaskFormerConfig(PEMHeadConfig, EncoderConfig):
    """Fields of the backbone and of the head. `points` of each mask are compared in training."""

    points: int = 12544

    def check(self) -> None:
        EncoderConfig.check(self)
        PEMHeadConfig.check(self)
        require_positive(points=self.points)


@register("pem_maskformer", PEMMaskFormerConfig)
class PEMMaskFormer(BackboneMaskTransformer):
    """ "PEM: Prototype-based Efficient MaskFormer for Image Segmentation" (arXiv 2402.19422) on any backbone."""

    config: PEMMaskFormerConfig

    def __init__(self, config: PEMMaskFormerConfig) -> None:
        super().__init__(config)
        self.num_classes, self.points = config.num_classes, config.points
        self.encoder = Encoder(config)
        self.decoder, self.queries = pem_head(config, self.encoder.channels)
        self.no_decay = (*self.encoder.backbone.no_decay, "level", "query", "position")

    def predictions(self, image: Tensor) -> list[Prediction]:
        return self.queries(*self.decoder(self.encoder(image)))


@dataclass(frozen=True, kw_only=True)
class KMaxConfig(KMaxHeadConfig, EncoderConfig):
    """Fields of the backbone and of the head. `points` of each mask are compared in training."""

    points: int = 12544

    def check(self) -> None:
        EncoderConfig.check(self)
        KMaxHeadConfig.check(self)
        require_positive(points=self.points)


@register("kmax", KMaxConfig)
class KMax(BackboneMaskTransformer):
    """ "k-means Mask Transformer" (arXiv 2207.04044) on any backbone."""

    config: KMaxConfig

    def __init__(self, config: KMaxConfig) -> None:
        super().__init__(config)
        self.num_classes, self.points = config.num_classes, config.points
        self.encoder = Encoder(config)
        self.decoder = KMaxHead(config, self.encoder.channels)
        self.no_decay = (*self.encoder.backbone.no_decay, "_position", "centres")

    def predictions(self, image: Tensor) -> list[Prediction]:
        """Every pixel belongs to one query: masks are the log-odds of its share among all, as the paper reads them."""
        return [(classes, log_odds(masks)) for classes, masks in self.decoder(self.encoder(image))]


def log_odds(logits: Tensor) -> Tensor:
    """(B, Q, h, w) -> logits whose sigmoid is the softmax over the queries, from 1e-6 to 1 - 1e-6."""
    logits = logits.float()
    shares = logits.log_softmax(1)
    best = logits.argmax(1, keepdim=True) == torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    # What is left beside the best share is too small to be had as a difference from one.
    others = logits.masked_fill(best, -torch.inf).logsumexp(1, keepdim=True)
    beside = shares - torch.log1p(-shares.exp().clamp(max=0.5))  # of all but the best, which have no more than half
    return torch.where(best, logits - others, beside).clamp(-LARGEST, LARGEST)
