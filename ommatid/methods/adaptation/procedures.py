"""The steps of DAFormer's training (arXiv 2111.14887), by the names that its reference gave them."""

from __future__ import annotations

import torch
from torch import Tensor

from ommatid.methods.adaptation.feature_distance import IGNORED, coarse_label, feature_distance, is_thing
from ommatid.methods.adaptation.mean_teacher import teacher_momentum
from ommatid.methods.adaptation.rare_classes import rare_class_shares
from ommatid.methods.adaptation.self_training import (
    class_mask,
    mixed_pictures,
    pseudo_labels,
    weighted_cross_entropy,
)
from ommatid.models.decoders.daformer import DAFormerConfig
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register_part

UNKNOWN = 0.75
"""Pixels of more noise have no label."""


@register_part("daformer", "rare_class")
class RareClass(Procedure):
    """pixels (images, classes) -> classes and probabilities (n,)."""

    config: DAFormerConfig

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        classes, shares = rare_class_shares(pixels, temperature=self.config.temperature)
        return {"classes": classes, "probabilities": shares}


@register_part("daformer", "feature_distance")
class FeatureDistance(Procedure):
    """label (B, 1, h, w) up to K, which stands for none, in blocks of pixels; noise (B, H, W); feature and reference
    (B, C, h, w) -> label and mask (B, 1, h, w), and loss ()."""

    config: DAFormerConfig

    def forward(self, label: Tensor, noise: Tensor, feature: Tensor, reference: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        known = label.where(label != config.num_classes, IGNORED)
        pixels = known.repeat_interleave(config.block, 2).repeat_interleave(config.block, 3)
        pixels = pixels.where(noise[:, None] <= UNKNOWN, IGNORED)
        scale = pixels.shape[-1] // feature.shape[-1]
        coarse = coarse_label(pixels, scale, num_classes=config.num_classes, min_ratio=config.min_ratio)
        mask = is_thing(coarse, config.classes)
        loss = config.weight * feature_distance(feature, reference, mask)
        return {"label": coarse, "mask": mask.to(feature.dtype), "loss": loss}


@register_part("daformer", "self_training")
class SelfTraining(Procedure):
    """A source with labels (B, 1, H, W), a target with a teacher's logits -> both mixed, and the student's loss."""

    config: DAFormerConfig

    def forward(  # type: ignore[override]
        self,
        teacher_logits: Tensor,
        label: Tensor,
        noise: Tensor,
        source: Tensor,
        target: Tensor,
        student_logits: Tensor,
    ) -> dict[str, Tensor]:
        config = self.config
        pseudo, sure = pseudo_labels(
            config.scale * teacher_logits,
            threshold=config.threshold,
            ignore_top=config.ignore_top,
            ignore_bottom=config.ignore_bottom,
        )
        mask = class_mask(label, noise)
        mixed = mixed_pictures(mask, (source, label.squeeze(1)), (target, pseudo), sure)
        return {
            "mask": mask.to(source.dtype),
            "image": mixed.image,
            "mixed_label": mixed.label,
            "weight": mixed.weight,
            "loss": weighted_cross_entropy(student_logits, mixed.label, mixed.weight),
        }


@register_part("daformer", "ema")
class TeacherMomentum(Procedure):
    """alpha (n,): how much of the teacher stays before each of the config's iterations."""

    config: DAFormerConfig

    def forward(self, unused: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        values = [teacher_momentum(iteration, self.config.alpha) for iteration in self.config.iterations]
        return {"alpha": torch.tensor(values)}
