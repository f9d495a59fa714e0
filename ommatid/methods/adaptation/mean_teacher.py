"""A teacher that is the mean of what its student was: it labels pictures that have no labels.

"Mean teachers are better role models" (arXiv 1703.01780), as in DAFormer (arXiv 2111.14887).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ommatid.nn.residual import DropPath


def teacher_momentum(iteration: int, alpha: float = 0.999) -> float:
    """How much of the teacher stays before an iteration, from 1 on: few iterations are averaged alike."""
    return min(1 - 1 / (iteration + 1), alpha)


class MeanTeacher(nn.Module):
    """The moving mean of a model's parameters; it answers as in training, but nothing is dropped.

    Batch norms so use each batch's own statistics, and their running ones are the teacher's own.

    Args:
        student: the model, of which this begins as a copy.
        alpha: of the moving mean.
    """

    def __init__(self, student: nn.Module, *, alpha: float = 0.999) -> None:
        super().__init__()
        self.alpha = alpha
        self.model = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def update_(self, student: nn.Module, iteration: int) -> None:
        """Before each iteration; before the first one, which is 0, the teacher becomes the student."""
        momentum = teacher_momentum(iteration, self.alpha)
        for mine, new in zip(self.model.parameters(), student.parameters(), strict=True):
            mine.lerp_(new, 1 - momentum)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        self.model.train()
        for part in self.model.modules():
            if isinstance(part, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | DropPath):
                part.eval()
        return self.model(image)
