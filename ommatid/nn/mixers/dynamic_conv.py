"""Dynamic convolution: every position computes the kernels with which it mixes its neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.ops.dynamic_conv import dynamic_conv


class DynamicConv(nn.Module):
    """Depthwise convolution with kernels made at each position of what is there: (B, H, W, C) -> (B, H, W, C).

    The dynamic local attention of DLGSANet (arXiv 2301.02031), without its projections. Nothing normalises the kernels.
    Cost: H W (C^2 / 4 + K^2 C / 4 + K^2 C groups / 4 + K^2 C) multiply-adds.

    Args:
        dim: C, at least 4.
        kernel_size: K, odd.
        groups: number of kernels of a position; channel c uses kernel c modulo groups, which divides C.
    """

    def __init__(self, dim: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.taps = (kernel_size**2, groups)
        hidden = dim // 4
        self.perceive = nn.Sequential(nn.Linear(dim, hidden), depthwise_conv(hidden, kernel_size))
        self.kernels = nn.Linear(hidden, kernel_size**2 * groups)

    def forward(self, x: Tensor) -> Tensor:
        perceived = self.perceive(x).flatten(1, 2)
        # Kernels are by far the largest map. Made with their channels first, they are read along whole rows.
        weight = self.kernels.weight.expand(x.shape[0], -1, -1)
        kernels = torch.baddbmm(self.kernels.bias[:, None], weight, perceived.mT)
        return dynamic_conv(x, kernels.unflatten(2, x.shape[1:3]).unflatten(1, self.taps).permute(0, 3, 4, 1, 2))
