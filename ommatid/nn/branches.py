"""Branches that run side by side on one map."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Branches(nn.Module):
    """The outputs of several branches next to each other: (B, H, W, C_in) -> (B, H', W', sum of their widths).

    From "Going Deeper with Convolutions" (arXiv 1409.4842).

    Args:
        branches: each (B, H, W, C_in) -> (B, H', W', C_i), all of one size.
    """

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([branch(features) for branch in self.branches], dim=-1)
