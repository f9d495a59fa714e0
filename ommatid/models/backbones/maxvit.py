"""MaxViT: in every block a convolution, attention in windows, and attention on grids that span the map.

"MaxViT: Multi-Axis Vision Transformer" (arXiv 2204.01697).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.reference import changed, query_minus_key
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, pair
from ommatid.nn.block import Block, Stage, pyramid
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_conv_fan_out_
from ommatid.nn.mbconv import MBConv
from ommatid.nn.mixers import Attention, Gridded, Windowed
from ommatid.nn.norm import BatchNorm2d
from ommatid.nn.pool import AvgPool2d
from ommatid.nn.position import RelativePositionBias
from ommatid.nn.residual import Residual, stochastic_depth
from ommatid.nn.squeeze_excite import SqueezeExcite, init_gate_fan_out_, rounded_width

GELU = partial(nn.GELU, approximate="tanh")
EPS = 1e-3


@dataclass(frozen=True, kw_only=True)
class MaxViTConfig(Config):
    stem_dim: int = 64
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 5, 2)
    head_dim: int = 32
    window_size: int | tuple[int, int] = 7
    grid_size: int | tuple[int, int] = 7
    mlp_ratio: float = 4.0
    expand_ratio: float = 4.0
    se_ratio: float = 0.25
    head_hidden: int = 512

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths)
        require(min(self.depths) > 0, "depths", self.depths, "at least one block in each stage")
        require_positive(stem_dim=self.stem_dim, head_hidden=self.head_hidden)
        require_divisible(self.dims, (self.head_dim,) * len(self.dims), "head_dim")
        for name in ("window_size", "grid_size"):
            require(min(pair(getattr(self, name))) > 0, name, getattr(self, name), "positive")
        require(int(min(self.dims) * self.se_ratio) > 0, "se_ratio", self.se_ratio, f"at least 1 / {min(self.dims)}")

    @classmethod
    def fields_for(cls, image_size: int) -> dict[str, int]:
        """Windows and grids are a 32nd of the image, as in the published models."""
        return {} if image_size % 32 else {"window_size": image_size // 32, "grid_size": image_size // 32}

    @property
    def multiple(self) -> int:
        """Images of such sides have whole windows and grids in every stage."""
        return math.lcm(*pair(self.window_size), *pair(self.grid_size)) * 2 ** (len(self.dims) + 1)

    def check_size(self, image_size: tuple[int, int]) -> None:
        """Raises ValueError unless the maps of all stages are whole windows and whole grids."""
        size = image_size
        for stride in (2, *doubling_strides(4, len(self.dims))):
            size = (-(-size[0] // 2), -(-size[1] // 2))
            for name, (rows, columns) in (("windows", pair(self.window_size)), ("grids", pair(self.grid_size))):
                whole = stride == 2 or (size[0] % rows == 0 and size[1] % columns == 0)
                allowed = f"what gives whole {name} of {(rows, columns)} at stride {stride}, where the map is {size}"
                require(whole, "image size", image_size, allowed)


@register("maxvit", MaxViTConfig)
class MaxViT(Backbone):
    """MaxViT. Sides round up; the map of every stage must be a multiple of the window and of the grid."""

    config: MaxViTConfig
    no_decay = ("table",)

    def __init__(self, config: MaxViTConfig) -> None:
        super().__init__(config)
        self.image_sizes = ImageSizes(multiple=config.multiple)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = nn.Sequential(
            ConvNorm(config.in_channels, config.stem_dim, 3, stride=2, padding="same", bias=True, act=GELU(), eps=EPS),
            Conv2d(config.stem_dim, config.stem_dim, 3, padding=1),
        )
        in_dims = (config.stem_dim, *dims)
        self.stages = nn.ModuleList(
            Stage(
                nn.Identity(),
                [
                    maxvit_block(config, dim if j else in_dims[i], dim, stride=1 if j else 2, drop_path=rate)
                    for j, rate in enumerate(rates[i])
                ],
            )
            for i, dim in enumerate(dims)
        )
        self.hidden = nn.Sequential(nn.LayerNorm(dims[-1]), nn.Linear(dims[-1], config.head_hidden), nn.Tanh())
        self.head = classifier(config.head_hidden, config.num_classes)
        for init in (init_conv_fan_out_, init_gate_fan_out_, init_transformer_):
            self.apply(init)

    @property
    def embed_dim(self) -> int:
        return self.config.head_hidden

    def maps(self, image: Tensor) -> list[Tensor]:
        self.config.check_size((image.shape[-2], image.shape[-1]))
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.hidden(self.maps(image)[-1].mean((1, 2)))


def maxvit_block(config: MaxViTConfig, in_dim: int, dim: int, *, stride: int, drop_path: float) -> nn.Sequential:
    window, grid = pair(config.window_size), pair(config.grid_size)
    hidden = int(dim * config.mlp_ratio)

    def attention(size: tuple[int, int]) -> Attention:
        heads = dim // config.head_dim
        return Attention(dim, heads, bias=RelativePositionBias(size, heads))

    return nn.Sequential(
        OrderedDict(
            conv=conv_residual(config, in_dim, dim, stride=stride, drop_path=drop_path),
            window=Block(dim, Windowed(attention(window), window), MLP(dim, hidden, act=GELU()), drop_path=drop_path),
            grid=Block(dim, Gridded(attention(grid), grid), MLP(dim, hidden, act=GELU()), drop_path=drop_path),
        )
    )


def conv_residual(config: MaxViTConfig, in_dim: int, dim: int, *, stride: int, drop_path: float) -> Residual:
    hidden = rounded_width(dim * config.expand_ratio, keep=0.9)
    gate = SqueezeExcite(hidden, int(dim * config.se_ratio), act=nn.SiLU())
    conv = MBConv(
        in_dim,
        dim,
        hidden,
        stride=stride,
        padding="same",
        act=GELU(),
        gate=gate,
        norms=(True, True, False),
        eps=EPS,
    )
    norm = partial(BatchNorm2d, eps=EPS)
    return Residual(
        in_dim, conv, norm=norm, drop_path=drop_path, shortcut=shortcut(in_dim, dim) if stride > 1 else None
    )


def shortcut(in_dim: int, dim: int) -> nn.Sequential:
    """2x2 means, of four even where a square hangs over the border, then a 1x1 convolution where the width changes."""
    pool = AvgPool2d(2, ceil_mode=True, divisor_override=4)
    return nn.Sequential(pool, nn.Identity() if in_dim == dim else Conv2d(in_dim, dim, 1))


def init_transformer_(part: nn.Module) -> None:
    """Linear layers of attention and MLPs: Xavier-uniform weights; biases 0 in attention and about 1e-6 in MLPs."""
    if isinstance(part, Attention):
        for linear in (part.qkv, part.proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
    if isinstance(part, MLP):
        for linear in (part.fc1, part.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)


def published(stem_dim: int, dims: tuple[int, ...], depths: tuple[int, ...]) -> MaxViTConfig:
    return MaxViTConfig(stem_dim=stem_dim, dims=dims, depths=depths, head_hidden=dims[-1])


def at_all_sizes(name: str, config: MaxViTConfig) -> dict[str, Any]:
    """For images of 224, 384 and 512 pixels: window and grid are a 32nd of the image."""
    sizes = {224: 7, 384: 12, 512: 16}
    return {f"{name}_{image}": config.replace(window_size=size, grid_size=size) for image, size in sizes.items()}


VARIANTS = {
    **at_all_sizes("maxvit_tiny", published(64, (64, 128, 256, 512), (2, 2, 5, 2))),
    **at_all_sizes("maxvit_small", published(64, (96, 192, 384, 768), (2, 2, 5, 2))),
    **at_all_sizes("maxvit_base", published(64, (96, 192, 384, 768), (2, 6, 14, 2))),
    **at_all_sizes("maxvit_large", published(128, (128, 256, 512, 1024), (2, 6, 14, 2))),
    **at_all_sizes("maxvit_xlarge", published(192, (192, 384, 768, 1536), (2, 6, 14, 2))),
}

REFERENCE_NAMES = [
    (r"^stem\.conv1\.", "stem.0.conv."),
    (r"^stem\.norm1\.", "stem.0.norm."),
    (r"^stem\.conv2\.", "stem.1."),
    (r"\.conv\.shortcut\.expand\.", ".conv.shortcut.1."),
    (r"\.conv\.pre_norm\.", ".conv.norm."),
    (r"\.conv\.conv1_1x1\.", ".conv.inner.expand.conv."),
    (r"\.conv\.norm1\.", ".conv.inner.expand.norm."),
    (r"\.conv\.conv2_kxk\.", ".conv.inner.conv.conv."),
    (r"\.conv\.norm2\.", ".conv.inner.conv.norm."),
    (r"\.conv\.se\.", ".conv.inner.gate."),
    (r"\.conv\.conv3_1x1\.", ".conv.inner.reduce.conv."),
    (r"\.attn_block\.", ".window."),
    (r"\.attn_grid\.", ".grid."),
    (r"\.(window|grid)\.norm1\.", r".\1.token.norm."),
    (r"\.(window|grid)\.norm2\.", r".\1.channel.norm."),
    (r"\.rel_pos\.relative_position_bias_table$", ".bias.table"),
    (r"\.attn\.", ".token.inner.mixer."),
    (r"\.mlp\.", ".channel.inner."),
    (r"^head\.norm\.", "hidden.0."),
    (r"^head\.pre_logits\.fc\.", "hidden.1."),
    (r"^head\.fc\.", "head."),
]


def convert_reference(state: dict[str, Tensor], model: MaxViT) -> dict[str, Tensor]:
    return changed(state, "_bias_table$", query_minus_key)
