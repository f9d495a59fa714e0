"""From a map to an image of more pixels: convolutions whose channels become pixels."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import Conv2d

# Width of the map that the upsamplers of super-resolution networks enlarge, whatever the width of the network.
HIDDEN = 64


class PixelShuffle(nn.PixelShuffle):
    """`torch.nn.PixelShuffle` for maps: (B, H, W, r^2 C) -> (B, r H, r W, C), r being the factor.

    Channel r^2 c + r i + j becomes channel c of the pixel in row i, column j. From "Real-Time Single Image and Video
    Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network" (arXiv 1609.05158).
    """

    def forward(self, features: Tensor) -> Tensor:
        return F.pixel_shuffle(features.permute(0, 3, 1, 2), self.upscale_factor).permute(0, 2, 3, 1)


class PatchExpand(nn.Module):
    """Each position becomes a square of positions: (B, H, W, C) -> (B, factor H, factor W, C_out).

    From Swin-Unet (arXiv 2105.05537). Cost: H W C factor^2 C_out multiply-adds.
    """

    def __init__(self, dim: int, out_dim: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(dim, factor**2 * out_dim, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, rows, columns, _ = x.shape
        squares = self.expand(x).view(batch, rows, columns, self.factor, self.factor, -1).transpose(2, 3)
        return self.norm(squares.reshape(batch, rows * self.factor, columns * self.factor, -1))


class Doubled(nn.Module):
    """Twice the size, bilinear, the outermost cells staying where they are: (B, H, W, C) -> (B, 2 H, 2 W, C)."""

    def forward(self, features: Tensor) -> Tensor:
        channels_first = features.permute(0, 3, 1, 2)
        doubled = F.interpolate(channels_first, scale_factor=2, mode="bilinear", align_corners=True)
        return doubled.permute(0, 2, 3, 1)


def pixel_shuffle_direct(dim: int, out_dim: int, scale: int) -> nn.Sequential:
    """One 3x3 convolution and one pixel shuffle: (B, H, W, C) -> (B, scale H, scale W, C_out).

    Cost: 9 H W C scale^2 C_out multiply-adds.
    """
    return nn.Sequential(Conv2d(dim, scale**2 * out_dim, 3, padding=1), PixelShuffle(scale))


def pixel_shuffle_steps(dim: int, scale: int) -> nn.Sequential:
    """A 3x3 convolution and a pixel shuffle for every doubling, or for one tripling: (B, H, W, C) -> (B, s H, s W, C).

    From EDSR (arXiv 1707.02921). Cost: 36 H W C^2 multiply-adds for scale 2, 180 for 4, 81 for 3.

    Raises:
        ValueError: the scale is neither 3 nor a power of two.
    """
    return nn.Sequential(
        *(layer for factor in shuffle_factors(scale) for layer in pixel_shuffle_direct(dim, dim, factor))
    )


def shuffle_factors(scale: int) -> list[int]:
    """The factors of an upsampler's pixel shuffles. Raises ValueError as `pixel_shuffle_steps` does."""
    if scale == 3:
        return [3]
    if scale < 1 or scale & (scale - 1):
        raise ValueError(f"scale = {scale!r} is not possible: allowed is 3 or a power of two (1, 2, 4, 8, ...)")
    return [2] * int(math.log2(scale))


class Reconstruction(nn.Module):
    """Makes the image of a super-resolution network's last map: (B, H, W, C) -> (B, scale H, scale W, C_out).

    The map is projected to 64 channels, enlarged by `pixel_shuffle_steps`, and projected to the image's channels. From
    SwinIR (arXiv 2108.10257). Cost: 9 H W 64 (C + scale^2 C_out) multiply-adds, and those of the steps for 64 channels.

    Args:
        dim: C.
        out_dim: C_out.
        scale: 3 or a power of two.

    Raises:
        ValueError: any other scale.
    """

    def __init__(self, dim: int, out_dim: int, scale: int) -> None:
        super().__init__()
        self.expand = Conv2d(dim, HIDDEN, 3, padding=1)
        self.act = nn.LeakyReLU(0.01)
        self.upsample = pixel_shuffle_steps(HIDDEN, scale)
        self.proj = Conv2d(HIDDEN, out_dim, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.proj(self.upsample(self.act(self.expand(features))))
