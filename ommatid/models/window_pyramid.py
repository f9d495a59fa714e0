"""What Swin and the models made from it share: a pyramid of merged patches whose blocks work in shifted windows."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from ommatid.models.config import Config, require_divisible, require_positive, require_stages
from ommatid.models.sizes import halved, require_patches, whole_patches
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.position import AbsolutePosition
from ommatid.ops.windows import window_and_shift


@dataclass(frozen=True, kw_only=True)
class WindowPyramidConfig(Config):
    """Windows and the position table follow `image_size`."""

    image_size: int | tuple[int, int] = 224
    patch_size: int = 4
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    absolute_position: bool = False
    patch_norm: bool = True

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, heads=self.heads)
        require_divisible(self.dims, self.heads)
        require_positive(window_size=self.window_size)
        require_patches(self.image_size, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches in the first stage."""
        return whole_patches(self.image_size, self.patch_size)

    def window_and_shift(self, stage: int, index: int) -> tuple[int, int]:
        """(window, shift) of a block: every other one is shifted, unless one window covers the map's shorter side."""
        window, shift = window_and_shift(halved(self.grid, stage), self.window_size)
        return window, shift if index % 2 else 0


def window_pyramid_stem(config: WindowPyramidConfig) -> nn.Sequential:
    """Patches, with the norm and the positions that the config wants: (B, H, W, C_in) -> (B, h, w, C)."""
    dim = config.dims[0]
    norm = nn.LayerNorm(dim) if config.patch_norm else None
    patches = PatchEmbed(config.in_channels, dim, config.patch_size, norm=norm)
    position = AbsolutePosition(config.grid, dim) if config.absolute_position else nn.Identity()
    return nn.Sequential(OrderedDict(patches=patches, position=position))
