"""What a router's decision is made of: a number per token and expert, (S, C) -> (S, E)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HOTTEST = math.log(100)
"""The cosine router's factor is at most 100."""


class CosineLogits(nn.Module):
    """Cosines between projected tokens and a vector for each expert, times a learned factor: (S, C) -> (S, E).

    From Tutel (arXiv 2206.03382), after X-MoE (arXiv 2204.09179). Cost: R (C + E) multiply-adds a token.

    Args:
        dim: C.
        experts: E.
        inner_dim: R, in which angles are measured.
    """

    def __init__(self, dim: int, experts: int, *, inner_dim: int = 256) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((1,), math.log(2)))
        self.proj = nn.Linear(dim, inner_dim)
        self.directions = nn.Parameter(torch.randn(inner_dim, experts) * 0.01)

    def forward(self, tokens: Tensor) -> Tensor:
        cosines = F.normalize(self.proj(tokens), dim=1) @ F.normalize(self.directions, dim=0)
        return cosines * self.log_scale.clamp(max=HOTTEST).exp()


class TaskLogits(nn.Module):
    """Logits that also depend on which task an image is looked at for: (S, C) and the task's number -> (S, E).

    A linear layer on each token beside a learned vector for the task, as in M3ViT (NeurIPS 2022).

    Args:
        dim: C.
        experts: E.
        tasks: how many there are.
        task_dim: length of a task's vector.
    """

    def __init__(self, dim: int, experts: int, *, tasks: int, task_dim: int = 64) -> None:
        super().__init__()
        self.task = nn.Embedding(tasks, task_dim)
        self.of_token = nn.Linear(dim, experts, bias=False)
        self.of_task = nn.Linear(task_dim, experts, bias=False)

    def forward(self, tokens: Tensor, task: Tensor) -> Tensor:
        """task: an integer of shape (), or (S,) where tokens differ in it."""
        return self.of_token(tokens) + self.of_task(self.task(task))
