"""ViTamin: convolutions while the map is fine, then one long plain transformer at stride 16.

"ViTamin: Designing Scalable Vision Models in the Vision-Language Era" (arXiv 2404.02132).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.reference import changed, join_layers
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, halved, pair
from ommatid.nn.block import Block, Stage, pyramid
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.deploy import scale_output_
from ommatid.nn.init import init_conv_fan_out_, init_linear_
from ommatid.nn.mbconv import MBConv
from ommatid.nn.mixers import Attention
from ommatid.nn.norm import LayerNorm
from ommatid.nn.pool import AvgPool2d
from ommatid.nn.position import AbsolutePosition, positions_on_grid
from ommatid.nn.residual import Residual, stochastic_depth
from ommatid.nn.squeeze_excite import rounded_width


@dataclass(frozen=True, kw_only=True)
class ViTaminConfig(Config):
    """Two stages of convolutions and one of `depths[2]` transformer blocks; `stem_width` is `dims[0]` where None.

    With `pos_embed` images must give the grid that those of `image_size` give.
    """

    image_size: int | tuple[int, int] = 224
    dims: tuple[int, int, int] = (64, 128, 384)
    depths: tuple[int, int, int] = (2, 4, 14)
    heads: int = 6
    mlp_ratio: float = 2.0
    pos_embed: bool = True
    stem_width: int | None = None

    def check(self) -> None:
        require_positive(image_size=self.image_size, dims=self.dims, depths=self.depths)
        require(self.stem_width is None or self.stem_width > 0, "stem_width", self.stem_width, "null or positive")
        require_divisible(self.dims[2], self.heads)
        smallest = f"at least 1 / {self.dims[2]}"
        require(int(self.dims[2] * self.mlp_ratio) > 0, "mlp_ratio", self.mlp_ratio, smallest)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last map."""
        return halved(pair(self.image_size), 4)


@register("vitamin", ViTaminConfig)
class ViTamin(Backbone):
    """ViTamin. Sides round up; with a position table images must give its grid."""

    config: ViTaminConfig
    no_decay = ("position.table",)

    def __init__(self, config: ViTaminConfig) -> None:
        super().__init__(config)
        self.image_sizes = ImageSizes(fixed=pair(config.image_size)) if config.pos_embed else ImageSizes()
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(4, 3)
        stem_width = config.stem_width or dims[0]
        *conv_rates, transformer_rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = nn.Sequential(
            ConvNorm(config.in_channels, stem_width, 3, stride=2, bias=True, norm=LayerNorm(stem_width), act=nn.GELU()),
            Conv2d(stem_width, stem_width, 3, padding=1),
        )
        convolutions = [
            Stage(
                nn.Identity(),
                [conv_block(dim if j else in_dim, dim, first=not j, drop_path=rate) for j, rate in enumerate(rates)],
            )
            for in_dim, dim, rates in zip((stem_width, dims[0]), dims, conv_rates, strict=False)
        ]
        transformer = Stage(transition(config), [transformer_block(config, rate) for rate in transformer_rates])
        self.stages = nn.ModuleList([*convolutions, transformer])
        self.pooled_norm = LayerNorm(dims[2])
        self.head = classifier(dims[2], config.num_classes)
        self.apply(init_linear_)
        for part in (self.stem, *convolutions):
            part.apply(init_conv_fan_out_)

    def maps(self, image: Tensor) -> list[Tensor]:
        self._check_size((image.shape[-2], image.shape[-1]))
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.pooled_norm(self.maps(image)[-1].mean((1, 2)))

    def _check_size(self, size: tuple[int, int]) -> None:
        fits = not self.config.pos_embed or halved(size, 4) == self.config.grid
        allowed = f"what gives the {self.config.grid} positions of image_size {self.config.image_size}"
        require(fits, "image size", size, allowed)


def conv_block(in_dim: int, dim: int, *, first: bool, drop_path: float) -> Residual:
    """An inverted bottleneck whose only norm is in front; the first of a stage halves the map."""
    hidden = rounded_width(4 * dim, keep=0.9)
    conv = MBConv(in_dim, dim, hidden, stride=2 if first else 1, act=nn.GELU(), norms=(False, False, False))
    shortcut = pooled_shortcut(in_dim, dim) if first else None
    return Residual(in_dim, conv, norm=LayerNorm, drop_path=drop_path, shortcut=shortcut)


def pooled_shortcut(in_dim: int, dim: int) -> nn.Sequential:
    """Means of 3x3 pixels, of those inside the map only, then a 1x1 convolution where the width changes."""
    pool = AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
    return nn.Sequential(pool, nn.Identity() if in_dim == dim else Conv2d(in_dim, dim, 1))


def transition(config: ViTaminConfig) -> nn.Sequential:
    """From the last map of the convolutions to that of the transformer, with positions where it has them."""
    _, in_dim, dim = config.dims
    return nn.Sequential(
        OrderedDict(
            norm=LayerNorm(in_dim),
            conv=Conv2d(in_dim, dim, 3, stride=2, padding=1),
            position=AbsolutePosition(config.grid, dim) if config.pos_embed else nn.Identity(),
        )
    )


def transformer_block(config: ViTaminConfig, drop_path: float) -> Block:
    dim = config.dims[2]
    mlp = NormedGeGLU(dim, int(dim * config.mlp_ratio))
    return Block(dim, Attention(dim, config.heads), mlp, norm=LayerNorm, drop_path=drop_path)


class NormedGeGLU(nn.Module):
    """A norm of its own, then W2 (GELU(a) * b) with (a, b) = W1 x: (..., C) -> (..., C).

    GEGLU is from "GLU Variants Improve Transformer" (arXiv 2002.05202). Cost: 3 r H W C^2 multiply-adds, with
    r = hidden / C.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(self.norm(x)).chunk(2, dim=-1)
        return self.fc2(F.gelu(gate) * value)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.fc2, scale)


SMALL = ViTaminConfig()
LARGE = ViTaminConfig(dims=(160, 320, 1024), depths=(2, 4, 31), heads=16)
XLARGE = ViTaminConfig(dims=(192, 384, 1152), depths=(2, 4, 32), heads=16, pos_embed=False)

VARIANTS = {
    "vitamin_small_224": SMALL,
    "vitamin_base_224": SMALL.replace(dims=(128, 256, 768), heads=12),
    **{f"vitamin_large_{side}": LARGE.replace(image_size=side) for side in (224, 256, 336, 384)},
    **{f"vitamin_xlarge_{side}": XLARGE.replace(image_size=side) for side in (256, 336, 384)},
}

REFERENCE_NAMES = [
    (r"^pos_embed$", "stages.2.downsample.position.table"),
    (r"^patch_embed\.backbone\.stem\.conv1\.", "stem.0.conv."),
    (r"^patch_embed\.backbone\.stem\.norm1\.", "stem.0.norm."),
    (r"^patch_embed\.backbone\.stem\.conv2\.", "stem.1."),
    (r"^patch_embed\.backbone\.stages\.(\d)\.", r"stages.\1.blocks."),
    (r"^patch_embed\.backbone\.pool\.norm\.", "stages.2.downsample.norm."),
    (r"^patch_embed\.backbone\.pool\.proj\.", "stages.2.downsample.conv."),
    (r"\.shortcut\.expand\.", ".shortcut.1."),
    (r"\.pre_norm\.", ".norm."),
    (r"\.conv1_1x1\.", ".inner.expand.conv."),
    (r"\.conv2_kxk\.", ".inner.conv.conv."),
    (r"\.conv3_1x1\.", ".inner.reduce.conv."),
    (r"^blocks\.", "stages.2.blocks."),
    (r"\.mlp\.w2\.", ".mlp.fc2."),
    (r"^fc_norm\.", "pooled_norm."),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: ViTamin) -> dict[str, Tensor]:
    """Gives the position table its two axes, resampled for another image size, and joins gates and values."""
    joined = join_layers(state, ("w0", "w1"), "fc1")
    return changed(joined, "^pos_embed$", lambda table: positions_on_grid(table, model.config.grid))
