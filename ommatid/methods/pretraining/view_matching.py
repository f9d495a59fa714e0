"""PixPro as a learner: two views of every image in, a loss out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ommatid.methods.pretraining.learner import Errors, Learner
from ommatid.methods.pretraining.pixpro import PixPro, Views
from ommatid.models.backbone import Backbone
from ommatid.models.config import require

FARTHEST = 4.0
"""Loss of views that have nothing in common; what it is counted from, so that it is 0 for those that agree."""


class ViewMatcher(Learner):
    """Views (B, 2, 3, H, W), boxes (B, 2, 4) -> PixPro's loss (), from 0 on.

    Attributes:
        momentum: of the key branch in the next step; whoever trains sets it.

    Args:
        network: any backbone.
        options: of `PixProHeads`.
    """

    def __init__(self, network: Backbone, *, momentum: float, **options: Any) -> None:
        super().__init__()
        self.network = network
        self.learner = PixPro(network, **options)
        self.momentum = momentum
        self.farthest = FARTHEST * (1 + self.learner.heads.instance_weight)

    def check_size(self, size: int) -> None:
        stride = self.network.strides[-1]
        require(size >= 2 * stride, "size", size, f"{2 * stride} or more, so that the last map has pixels to compare")

    def example(self, size: int) -> tuple[Tensor, Tensor]:
        box = torch.tensor([0.0, 0.0, 1.0, 1.0])
        return torch.randn(2, 2, 3, size, size), box.expand(2, 2, 4)

    def forward(self, images: Tensor, drawn: Tensor) -> Tensor:
        """In training, the key branch follows first."""
        momentum = self.momentum if self.training else 1.0
        return self.farthest + self.learner(Views(*images.unbind(1)), Views(*drawn.unbind(1)), momentum)

    def errors(self, images: Tensor, drawn: Tensor) -> Errors:
        found = [self(images[index : index + 1], drawn[index : index + 1]).float() for index in range(len(images))]
        return Errors(torch.stack(found), torch.full((len(images),), self.farthest, device=images.device))
