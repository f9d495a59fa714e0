"""Classifiers behind a batch norm, and pairs of them for distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.deploy import fold_norm_before_
from ommatid.nn.init import init_linear_


class NormLinear(nn.Module):
    """Batch norm, then a linear layer: (B, dim) -> (B, num_classes). `deploy()` folds the norm."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm1d(dim)
        self.linear = nn.Linear(dim, num_classes)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.linear(self.norm(pooled))

    def deploy_(self) -> None:
        if isinstance(self.norm, nn.BatchNorm1d):
            fold_norm_before_(self.norm, self.linear)
            self.norm = nn.Identity()


class NormHead(nn.Module):
    """`NormLinear`, or with distillation the mean of two: (B, dim) -> (B, num_classes).

    With distillation (DeiT, arXiv 2012.12877) one classifier learns from the labels and one from a teacher; the loss
    takes both from `both(pooled)`. `deploy()` makes one of the two.
    """

    def __init__(self, dim: int, num_classes: int, *, distillation: bool = False) -> None:
        super().__init__()
        self.label = NormLinear(dim, num_classes)
        self.teacher = NormLinear(dim, num_classes) if distillation else None

    def forward(self, pooled: Tensor) -> Tensor:
        return self.label(pooled) if self.teacher is None else torch.stack(self.both(pooled)).mean(0)

    def both(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(label logits, teacher logits), each (B, num_classes). With distillation only, and not after `deploy()`."""
        assert self.teacher is not None
        return self.label(pooled), self.teacher(pooled)

    def deploy_(self) -> None:
        if self.teacher is not None:
            label, teacher = self.label.linear, self.teacher.linear
            label.weight.add_(teacher.weight).div_(2)
            label.bias.add_(teacher.bias).div_(2)
            self.teacher = None


def norm_classifier(dim: int, num_classes: int, *, distillation: bool = False) -> nn.Module:
    """`NormHead` with small weights, or the identity where num_classes is 0."""
    return NormHead(dim, num_classes, distillation=distillation).apply(init_linear_) if num_classes else nn.Identity()
