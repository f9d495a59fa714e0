"""Wavelet mixing: a Haar transform spreads tokens over scales, transposed convolutions bring them back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.conv import ConvTranspose2d
from ommatid.nn.deploy import fold_norm_after_
from ommatid.nn.norm import BatchNorm2d
from ommatid.ops.refusal import require_map
from ommatid.ops.wavelet import haar


class WaveletMixer(nn.Module):
    """Haar transform over several levels, an MLP on each, upsampling from coarse to fine: (B, H, W, C) -> (B, H, W, C).

    WaveMix (arXiv 2205.14375). H and W are multiples of 2 ** levels.
    Cost of one level: H W (C^2 / 4 + (C hidden + hidden F + 16 F C) / 4) multiply-adds, with F = mlp_dim.

    Args:
        dim: C, a multiple of 4.
        hidden: width inside the MLPs.
        mlp_dim: width that the MLPs give to the transposed convolutions.
        levels: of the transform.

    Raises:
        ValueError: in the forward pass, a side is no multiple of 2 ** levels.
    """

    def __init__(self, dim: int, hidden: int, mlp_dim: int, levels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(dim, dim // 4)
        self.levels = nn.ModuleList(
            UpsamplingMLP(dim if level == levels - 1 else dim + dim // 2, hidden, mlp_dim, dim // 2 if level else dim)
            for level in range(levels)
        )

    def forward(self, x: Tensor) -> Tensor:
        multiple = 2 ** len(self.levels)
        require_map(all(side % multiple == 0 for side in x.shape[1:3]), x, f"a multiple of {multiple} a side")
        low, bands = self.reduction(x), []
        for _ in self.levels:
            low, details = haar(low)
            bands.append(torch.cat([low, details.flatten(-2)], dim=-1))
        *finer, coarsest = bands
        mixed = self.levels[-1](coarsest)
        for mlp, band in zip(reversed(self.levels[:-1]), reversed(finer), strict=True):
            mixed = mlp(torch.cat([band, mixed], dim=-1))
        return mixed


class UpsamplingMLP(nn.Module):
    """MLP, 4x4 transposed convolution, batch norm: (B, H, W, C_in) -> (B, 2 H, 2 W, C). `deploy()` folds the norm."""

    def __init__(self, in_dim: int, hidden: int, mlp_dim: int, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dim, hidden)
        self.act = nn.GELU()
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(hidden, mlp_dim)
        self.up = ConvTranspose2d(mlp_dim, dim, 4, stride=2, padding=1)
        self.norm: nn.Module = BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.up(self.fc2(self.dropout(self.act(self.fc1(x))))))

    def deploy_(self) -> None:
        if isinstance(self.norm, BatchNorm2d):
            fold_norm_after_(self.up, self.norm)
            self.norm = nn.Identity()
