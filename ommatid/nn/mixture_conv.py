"""Convolutions that are several experts, of which each image takes one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ommatid.nn.conv import Conv2d


class Pathway(NamedTuple):
    """Which expert each of B images takes, in every layer.

    chosen: (B,) the expert. gate: (B,) ones, through which a gradient reaches the chosen expert's score.
    """

    chosen: Tensor
    gate: Tensor


def best_pathway(scores: Tensor) -> Pathway:
    """The pathway of scores (B, E): the expert with the highest one."""
    best, chosen = scores.max(-1)
    return Pathway(chosen, 1 + best - best.detach())


class MixtureConv2d(Conv2d):
    """E convolutions stacked along their outputs, one for each image: (B, H, W, C) -> (B, H', W', C').

    From "Robust Mixture-of-Expert Training for Convolutional Neural Networks" (arXiv 2308.10110). Images with the same
    expert are convolved together, so that only chosen experts cost anything.

    Args:
        in_dim: C. dim: C'. experts: E. settings: as of `torch.nn.Conv2d`.
    """

    def __init__(self, in_dim: int, dim: int, kernel_size: int, experts: int, **settings: Any) -> None:
        super().__init__(in_dim, experts * dim, kernel_size, bias=False, **settings)
        self.experts = experts

    def forward(self, features: Tensor, pathway: Pathway | None = None) -> Tensor:
        if pathway is None or self.experts == 1:
            return super().forward(features)
        image = features.permute(0, 3, 1, 2)
        return (self._chosen(image, pathway.chosen) * pathway.gate.view(-1, 1, 1, 1)).permute(0, 2, 3, 1)

    def _chosen(self, image: Tensor, chosen: Tensor) -> Tensor:
        if image.shape[0] == 1:
            weight = self.weight.unflatten(0, (self.experts, -1)).index_select(0, chosen)[0]
            return self._conv_forward(image, weight, None)
        # Groups are as large as the largest one, which a program that is only traced cannot know.
        traced = torch.compiler.is_compiling() or image.is_meta
        return self._all(image, chosen) if traced else self._grouped(image, chosen)

    def _all(self, image: Tensor, chosen: Tensor) -> Tensor:
        every = self._conv_forward(image, self.weight, None).unflatten(1, (self.experts, -1))
        return every[torch.arange(image.shape[0], device=image.device), chosen]

    def _grouped(self, image: Tensor, chosen: Tensor) -> Tensor:
        """Convolves the k-th images of all experts that have any as one image, with a group of channels for each."""
        present, group, counts = chosen.unique(return_inverse=True, return_counts=True)
        weight = self.weight.unflatten(0, (self.experts, -1))[present].flatten(0, 1)
        order = group.argsort(stable=True)
        start = counts.cumsum(0) - counts
        number = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
        number = number - start[group]
        # A group with fewer images repeats one, and nobody reads the answer.
        row = torch.arange(int(counts.max()), device=order.device)
        taken = order[(start + row[:, None]).clamp(max=len(order) - 1)]
        joined = image[taken].flatten(1, 2)
        answers = F.conv2d(joined, weight, None, self.stride, self.padding, self.dilation, len(present))
        return answers.unflatten(1, (len(present), -1))[number, group]
