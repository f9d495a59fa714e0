"""The pixel decoder of Mask2Former: coarse maps that look into one another, finer ones fused top-down."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ommatid.nn.conv import Conv2d
from ommatid.nn.deformable_attention import DeformableAttention
from ommatid.nn.feedforward import MLP
from ommatid.nn.norm import GroupNorm
from ommatid.nn.residual import PostNormResidual
from ommatid.nn.sine_position import sine_position
from ommatid.ops.deformable_attention import Sizes, cell_centres, split_levels
from ommatid.ops.resize import resample

GROUPS = 32


class DeformableEncoderLayer(nn.Module):
    """Cells of several maps look into all of them, then think each by itself: (B, N, C) -> (B, N, C), post-norm."""

    def __init__(self, dim: int, heads: int, levels: int, mlp_dim: int, *, points: int = 4) -> None:
        super().__init__()
        self.attention = DeformableAttention(dim, heads, levels, points)
        self.norm = nn.LayerNorm(dim)
        self.mlp = PostNormResidual(dim, MLP(dim, mlp_dim, act=nn.ReLU()))

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, sizes: Sizes) -> Tensor:
        x = self.norm(x + self.attention(x + position, reference, x, sizes))
        return self.mlp(x)


class DeformableEncoder(nn.Module):
    """Projects maps to one width and lets their cells look into one another: list of (B, H_i, W_i, C_i) -> of C.

    Args:
        channels: C_i, in the order of the maps.
        dim: C; a multiple of 32.
        heads, mlp_dim: of each of the `depth` layers.
    """

    def __init__(self, channels: Sequence[int], dim: int, *, heads: int, mlp_dim: int, depth: int) -> None:
        super().__init__()
        self.dim = dim
        self.projections = nn.ModuleList(
            nn.Sequential(xavier_conv(width, dim), GroupNorm(GROUPS, dim)) for width in channels
        )
        self.level = nn.Parameter(torch.randn(len(channels), dim))
        self.layers = nn.ModuleList(DeformableEncoderLayer(dim, heads, len(channels), mlp_dim) for _ in range(depth))
        for layer in (module for module in self.layers.modules() if isinstance(module, MLP)):
            nn.init.xavier_uniform_(layer.fc1.weight)
            nn.init.xavier_uniform_(layer.fc2.weight)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        sizes = [(level.shape[1], level.shape[2]) for level in maps]
        projected = [project(level) for project, level in zip(self.projections, maps, strict=True)]
        x = torch.cat([level.flatten(1, 2) for level in projected], dim=1)
        waves = [sine_position(*size, self.dim, x.device).flatten(0, 1) for size in sizes]
        position = torch.cat([wave + level for wave, level in zip(waves, self.level, strict=True)])
        reference = cell_centres(sizes, x.device)[None]
        for layer in self.layers:
            x = layer(x, position, reference, sizes)
        return [cells.unflatten(1, size) for cells, size in zip(split_levels(x, sizes), sizes, strict=True)]


class TopDown(nn.Module):
    """A finer map joined with a coarser one of width C: (B, H, W, C_in), (B, h, w, C) -> (B, H, W, C).

    Args:
        in_dim: C_in.
        dim: C.
        norm: group norm of 32 groups where True, no norm and biases instead where False.
    """

    def __init__(self, in_dim: int, dim: int, *, norm: bool) -> None:
        super().__init__()
        self.lateral = Conv2d(in_dim, dim, 1, bias=not norm)
        self.lateral_norm = GroupNorm(GROUPS, dim) if norm else nn.Identity()
        self.conv = Conv2d(dim, dim, 3, padding=1, bias=not norm)
        self.norm = GroupNorm(GROUPS, dim) if norm else nn.Identity()
        for conv in (self.lateral, self.conv):
            init_conv_(conv)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        size = (fine.shape[1], fine.shape[2])
        joined = self.lateral_norm(self.lateral(fine)) + resample(coarse, size, mode="bilinear")
        return self.norm(self.conv(joined)).relu()


class DeformablePixels(nn.Module):
    """Maps fine to coarse, (B, H_i, W_i, C_i) -> mask features (B, H_0, W_0, mask_dim) and the three coarsest of C.

    "Masked-attention Mask Transformer for Universal Image Segmentation" (arXiv 2112.01527). The memories come coarsest
    first. Under autocast too all is computed in the precision of the weights, as published: masks get thresholded.

    Args:
        channels: C_i of four maps, fine to coarse.
        dim: C; a multiple of 32.
        mask_dim: width of the mask features.
        levels: how many of the coarsest maps look into one another; 2 or 3.
        depth, heads, mlp_dim: of the layers in which they do.
        norm: whether the top-down convolutions have group norms.
    """

    def __init__(
        self,
        channels: Sequence[int],
        dim: int,
        mask_dim: int,
        *,
        levels: int = 3,
        depth: int = 6,
        heads: int = 8,
        mlp_dim: int = 1024,
        norm: bool = True,
    ) -> None:
        super().__init__()
        coarse_first = list(reversed(channels))
        self.levels = levels
        self.encoder = DeformableEncoder(coarse_first[:levels], dim, heads=heads, mlp_dim=mlp_dim, depth=depth)
        self.top_down = nn.ModuleList(TopDown(width, dim, norm=norm) for width in coarse_first[levels:])
        self.mask_features = Conv2d(dim, mask_dim, 1)
        init_conv_(self.mask_features)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        weight = self.mask_features.weight
        with torch.autocast(weight.device.type, enabled=False):
            return self._decode([level.to(weight.dtype) for level in reversed(maps)])

    def _decode(self, coarse_first: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        outs = self.encoder(coarse_first[: self.levels])
        for join, fine in zip(self.top_down, coarse_first[self.levels :], strict=True):
            outs.append(join(fine, outs[-1]))
        return self.mask_features(outs[-1]), outs[:3]


def init_conv_(conv: nn.Conv2d) -> None:
    """Kaiming-uniform for a layer without activation, biases 0."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def xavier_conv(in_dim: int, dim: int) -> Conv2d:
    """A 1x1 convolution with Xavier-uniform weights and a bias of 0."""
    conv = Conv2d(in_dim, dim, 1)
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
