"""Restoration: a better picture of the same scene for each picture.

A batch is (degraded (B, 3, H, W), clean (B, 3, scale H, scale W)), float, values from 0 to 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ommatid.models.restorer import Restorer
from ommatid.tasks.restoration_losses import LOSSES
from ommatid.tasks.restoration_metrics import restoration_metrics
from ommatid.tasks.training import Batch, MakeOptimizer, Objective, Training


class Fidelity(Objective):
    """How near the restored picture is to the clean one, and in training also each draft of it.

    loss: a name of `LOSSES`. border: pixels along each side that PSNR and SSIM leave out.
    """

    def __init__(self, loss: str, border: int) -> None:
        super().__init__()
        self.distance = LOSSES[loss]
        self.metrics = restoration_metrics(border)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        degraded, clean = batch
        answers = model.restorations(degraded) if isinstance(model, Restorer) else [model(degraded)]
        return torch.stack([self.distance(answer, reduced(clean, answer)) for answer in answers]).sum()

    def judge(self, model: nn.Module, batch: Batch, kept: int) -> Tensor:
        degraded, clean = batch
        restored, clean = model(degraded).float()[:kept], clean[:kept]
        if kept:
            self.metrics.update(restored.clamp(0, 1), clean)
        losses = [self.distance(ours[None], theirs[None]) for ours, theirs in zip(restored, clean, strict=True)]
        return restored.new_tensor(losses)


def reduced(clean: Tensor, draft: Tensor) -> Tensor:
    """(B, 3, H, W) -> as small as the draft of a `Restorer`: its pixels in the middle of the draft's."""
    height, width = draft.shape[-2:]
    factor = 2 ** int(math.log2(clean.shape[-2] // height))
    return clean[..., factor // 2 :: factor, factor // 2 :: factor][..., :height, :width]


class Restoration(Training):
    """The training of a restoration network; arguments as of its parts."""

    def __init__(
        self,
        model: nn.Module,
        *,
        val_samples: int,
        make_optimizer: MakeOptimizer,
        loss: str = "l1",
        border: int = 0,
        average: float = 0.0,
    ) -> None:
        objective = Fidelity(loss, border)
        super().__init__(model, objective, val_samples=val_samples, make_optimizer=make_optimizer, average=average)
