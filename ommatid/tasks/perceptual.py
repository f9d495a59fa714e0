"""LPIPS: how different two pictures look to a network that recognises objects.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", arXiv 1801.03924. The linear
heads come with torchmetrics; AlexNet's weights are the user's to give, since nothing is fetched here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _LPIPS

from ommatid.models.config import require

SMALLEST = 31
"""Pixels along the shorter side that AlexNet's pooling still leaves something of."""


class Lpips(nn.Module):
    """Distances (B,) of restored from clean pictures, both (B, 3, H, W) with values 0 to 1; 0 for equal ones."""

    def __init__(self, alexnet: Mapping[str, Tensor]) -> None:
        """alexnet: the weights of torchvision's AlexNet for ImageNet, by their names there.

        Raises:
            ValueError: they are those of something else.
        """
        super().__init__()
        self.distance = _LPIPS(net="alex", pnet_rand=True)
        # The library's five slices keep the numbers that the layers have in `features`.
        for name, parameter in self.distance.net.named_parameters():
            given = alexnet.get(f"features.{name.split('.', 1)[1]}")
            if given is None or given.shape != parameter.shape:
                raise ValueError("LPIPS looks through torchvision's AlexNet, and the given weights are not its")
            parameter.copy_(given)

    @torch.inference_mode()
    def forward(self, restored: Tensor, clean: Tensor) -> Tensor:
        sides = tuple(clean.shape[-2:])
        require(min(sides) >= SMALLEST, "picture", sides, f"{SMALLEST} pixels or more along both sides for LPIPS")
        return self.distance(restored, clean, normalize=True).flatten()
