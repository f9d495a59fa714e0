"""Routers that know which task an image is looked at for: the experts of M3ViT.

"M3ViT: Mixture-of-Experts Vision Transformer for Efficient Multi-task Learning" (NeurIPS 2022).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ommatid.nn.moe.balance import squared_variation
from ommatid.nn.norm import LayerNorm


class Routed(NamedTuple):
    """expert_index (N, k) in ascending order, their weights (N, k), and the balance loss (), 0 after training."""

    expert_index: Tensor
    weights: Tensor
    balance_loss: Tensor


class NoisyGate(nn.Module):
    """Scores x W with noise in training, of which the k largest count: tokens (N, C) -> `Routed`.

    With learned noise its deviation is softplus(x W_noise) + 0.01, and weights are a softmax over the k chosen scores
    (arXiv 1701.06538). Otherwise it is noise_std / E, and weights are probabilities over all experts, as in V-MoE
    (arXiv 2106.05974).

    Args:
        dim: C. experts: E. top_k: k.
        noise_std: of the fixed noise; None for the learned one.
    """

    def __init__(self, dim: int, experts: int, top_k: int, *, noise_std: float | None = None) -> None:
        super().__init__()
        self.top_k = top_k
        self.noise_std = noise_std
        self.w_gate = nn.Parameter(torch.zeros(dim, experts))
        self.w_noise = nn.Parameter(torch.zeros(dim, experts)) if noise_std is None else None
        nn.init.kaiming_uniform_(self.w_gate, a=5**0.5)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Routed:
        """noise (N, E): drawn from N(0, 1) where not given; used in training alone."""
        scores = x @ self.w_gate
        if not self.training:
            return self._routed(scores, scores, None)
        noise = torch.randn_like(scores) if noise is None else noise
        deviation = self._deviation(x, scores)
        return self._routed(scores, scores + noise * deviation, deviation)

    def _deviation(self, x: Tensor, scores: Tensor) -> Tensor:
        if self.w_noise is None:
            return torch.full_like(scores, (self.noise_std or 0.0) / scores.shape[-1])
        return F.softplus(x @ self.w_noise) + 0.01

    def _routed(self, scores: Tensor, noisy: Tensor, deviation: Tensor | None) -> Routed:
        """deviation: None after training, when nothing has to be balanced."""
        experts = scores.shape[-1]
        ranked = noisy if self.w_noise is not None else noisy.softmax(-1)
        # As the reference has it, scores without learned noise are held against probabilities.
        highest, order = ranked.topk(min(self.top_k + 1, experts))
        index, place = order[:, : self.top_k].sort(-1)
        weights = highest[:, : self.top_k] if self.w_noise is None else highest[:, : self.top_k].softmax(-1)
        weights = weights.gather(-1, place)
        if deviation is None:
            return Routed(index, weights, scores.new_zeros(()))
        given = torch.zeros_like(scores).scatter(-1, index, weights)
        if self.top_k == experts or self.noise_std == 0:
            load = (given > 0).sum(0).to(scores)
        else:
            load = expected_load(scores, noisy, deviation, highest)
        return Routed(index, weights, squared_variation(given.sum(0)) + squared_variation(load))


def expected_load(scores: Tensor, noisy: Tensor, deviation: Tensor, highest: Tensor) -> Tensor:
    """(E,): how many tokens an expert would get, in expectation over fresh noise. From arXiv 1701.06538.

    Args:
        scores, noisy, deviation: (N, E), before and after the noise, and how wide that is.
        highest: (N, k + 1), the largest values in descending order.
    """
    to_stay, to_enter = highest[:, -1:], highest[:, -2:-1]
    threshold = torch.where(noisy > to_stay, to_stay, to_enter)
    return torch.special.ndtr((scores - threshold) / deviation).sum(0)


class TaskEmbedding(nn.Module):
    """A vector (dim,) for the number of a task: two linear layers and a norm on its indicator."""

    def __init__(self, tasks: int, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(tasks, dim)
        self.fc2 = nn.Linear(dim, dim)
        self.norm = LayerNorm(dim)

    def forward(self, task: int) -> Tensor:
        return self.norm(self.fc2(F.gelu(self.fc1.weight[:, task] + self.fc1.bias)))


class TaskConditionedGate(nn.Module):
    """One gate for all tasks, on tokens (N, C) beside what is known of the task: `Routed`. As `NoisyGate`.

    Args:
        tasks: how many there are.
        task_dim: width of what is known of one.
    """

    def __init__(
        self, dim: int, experts: int, top_k: int, *, tasks: int, task_dim: int, noise_std: float | None = None
    ) -> None:
        super().__init__()
        self.task = TaskEmbedding(tasks, task_dim)
        self.gate = NoisyGate(dim + task_dim, experts, top_k, noise_std=noise_std)

    def forward(self, x: Tensor, task: int, noise: Tensor | None = None) -> Routed:
        return self.gate(torch.cat([x, self.task(task).expand(x.shape[0], -1)], -1), noise)


class GatePerTask(nn.Module):
    """A gate of its own for every task: tokens (N, C) -> `Routed`. Arguments as of `TaskConditionedGate`."""

    def __init__(self, dim: int, experts: int, top_k: int, *, tasks: int, noise_std: float | None = None) -> None:
        super().__init__()
        self.gate = nn.ModuleList(NoisyGate(dim, experts, top_k, noise_std=noise_std) for _ in range(tasks))

    def forward(self, x: Tensor, task: int, noise: Tensor | None = None) -> Routed:
        return self.gate[task](x, noise)
