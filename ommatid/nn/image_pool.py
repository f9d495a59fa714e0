"""What the whole map says, as a map of one cell."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.norm import BatchNorm2d


class PooledBatchNorm2d(BatchNorm2d):
    """Batch norm of maps that may have one cell: (B, H, W, C) -> (B, H, W, C).

    One cell of one image has no variance: training then takes the running statistics, and leaves them as they are.
    """

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or features.shape[:3].numel() > 1:
            return super().forward(features)
        cells = features.permute(0, 3, 1, 2)
        normed = F.batch_norm(cells, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return normed.permute(0, 2, 3, 1)


class ImagePool(nn.Module):
    """The mean of a map, normed and rectified: (B, H, W, C_in) -> (B, 1, 1, C).

    The context of "Rethinking Atrous Convolution for Semantic Image Segmentation" (arXiv 1706.05587).
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = ConvNorm(in_dim, dim, 1, act=nn.ReLU(), norm=PooledBatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.mean((1, 2), keepdim=True))
