"""Supervised attention: an early answer decides what goes on to the next stage."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.conv import Conv2d


class SupervisedAttention(nn.Module):
    """Lets through what the stage's own answer, an image, finds worth it: (B, H, W, C), (B, H, W, 3) -> (B, H, W, C).

    "Multi-Stage Progressive Image Restoration" (arXiv 2102.02808).
    """

    def __init__(self, dim: int, *, bias: bool) -> None:
        super().__init__()
        self.value = Conv2d(dim, dim, 3, padding=1, bias=bias)
        self.gate = Conv2d(3, dim, 3, padding=1, bias=bias)

    def forward(self, features: Tensor, answer: Tensor) -> Tensor:
        return features + self.value(features) * self.gate(answer).sigmoid()
