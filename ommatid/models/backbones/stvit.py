"""STViT: where the map is large, attention between super tokens that were sampled from it.

"Vision Transformer with Super Token Sampling" (arXiv 2211.11167).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, SWIN_STAGE_NAMES
from ommatid.models.reference import one_later
from ommatid.models.registry import register
from ommatid.nn.block import pyramid, pyramid_stages
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.feedforward import ConvMLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention, SuperTokenAttention
from ommatid.nn.norm import BatchNorm2d, LayerNorm
from ommatid.nn.position import ConvPosition
from ommatid.nn.residual import Residual, stochastic_depth


@dataclass(frozen=True, kw_only=True)
class STViTConfig(Config):
    """`stoken_sizes` are the sides of the super tokens' cells; 1 is attention over the whole map, without any."""

    dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 5, 9, 3)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    n_iter: tuple[int, ...] = (1, 1, 1, 1)
    stoken_sizes: tuple[int, ...] = (8, 4, 1, 1)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    layer_scale: tuple[float | None, ...] = (None, None, None, None)
    projection: int = 1024

    def check(self) -> None:
        require_stages(
            dims=self.dims,
            depths=self.depths,
            heads=self.heads,
            n_iter=self.n_iter,
            stoken_sizes=self.stoken_sizes,
            layer_scale=self.layer_scale,
        )
        require_divisible(self.dims, self.heads)
        require(self.dims[0] % 2 == 0, "dims", self.dims, "an even width in the first stage")
        require_positive(projection=self.projection, n_iter=self.n_iter, stoken_sizes=self.stoken_sizes)
        positive = all(scale is None or scale > 0 for scale in self.layer_scale)
        require(positive, "layer_scale", self.layer_scale, "null or a positive number for each stage")


@register("stvit", STViTConfig)
class STViT(Backbone):
    """Super token ViT. Sides round up and maps are padded to whole super tokens, so any image works."""

    config: STViTConfig

    def __init__(self, config: STViTConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        half = dims[0] // 2
        self.stem = nn.Sequential(
            *stem_layer(config.in_channels, half, stride=2),
            *stem_layer(half, half),
            *stem_layer(half, dims[0], stride=2),
            *stem_layer(dims[0], dims[0]),
        )
        self.stages = pyramid_stages(
            dims,
            rates,
            partial(ConvNorm, kernel_size=3, stride=2, bias=True),
            lambda i, _, rate: stvit_block(config, i, drop_path=rate),
        )
        self.projection = ConvNorm(dims[-1], config.projection, 1, bias=True, act=nn.SiLU())
        self.head = classifier(config.projection, config.num_classes)
        if isinstance(self.head, nn.Linear):
            init_linear_(self.head)

    @property
    def embed_dim(self) -> int:
        return self.config.projection

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.projection(self.maps(image)[-1]).mean((1, 2))


def stem_layer(in_dim: int, dim: int, *, stride: int = 1) -> tuple[nn.Module, ...]:
    """The activation is in front of the norm."""
    return Conv2d(in_dim, dim, 3, stride=stride, padding=1), nn.GELU(), BatchNorm2d(dim)


def stvit_block(config: STViTConfig, stage: int, *, drop_path: float) -> nn.Sequential:
    dim = config.dims[stage]
    branch = partial(Residual, dim, layer_scale=config.layer_scale[stage], drop_path=drop_path)
    mlp = ConvMLP(dim, int(dim * config.mlp_ratio), expand_act=nn.GELU(), act=nn.Identity(), residual=True)
    return nn.Sequential(
        OrderedDict(
            position=ConvPosition(dim),
            token=branch(stvit_mixer(config, stage), norm=LayerNorm),
            channel=branch(mlp, norm=BatchNorm2d),
        )
    )


def stvit_mixer(config: STViTConfig, stage: int) -> nn.Module:
    dim, heads, size = config.dims[stage], config.heads[stage], config.stoken_sizes[stage]
    if size == 1:
        return Attention(dim, heads, qkv_bias=config.qkv_bias)
    return SuperTokenAttention(dim, heads, size, iterations=config.n_iter[stage], qkv_bias=config.qkv_bias)


SMALL = STViTConfig()
BASE = STViTConfig(
    dims=(96, 192, 384, 512), depths=(4, 6, 14, 6), heads=(2, 3, 6, 8), layer_scale=(None, None, 1e-6, 1e-6)
)

# The published models at 384 x 384 have the configurations of those at 224 x 224.
VARIANTS = {
    "stvit_small": SMALL,
    "stvit_base": BASE,
    "stvit_large": BASE.replace(dims=(96, 192, 448, 640), depths=(4, 7, 19, 8), heads=(2, 3, 7, 10)),
}

REFERENCE_NAMES = [
    (r"^patch_embed\.proj\.", "stem."),
    (r"^layers\.(\d+)\.downsample\.proj\.0\.", one_later("stages.{}.downsample.conv.")),
    (r"^layers\.(\d+)\.downsample\.proj\.1\.", one_later("stages.{}.downsample.norm.")),
    (r"\.pos_embed\.", ".position."),
    (r"\.norm1\.norm\.", ".token.norm."),
    (r"\.attn\.stoken_refine\.", ".token.inner."),
    (r"\.mlp2\.conv\.conv\.", ".channel.inner.conv.conv."),
    (r"\.mlp2\.", ".channel.inner."),
    (r"^proj\.", "projection.conv."),
    (r"^norm\.", "projection.norm."),
    *SWIN_STAGE_NAMES,
    *BLOCK_NAMES,
]

# Constant kernels that the reference gathers neighbours with.
REFERENCE_IGNORED = [r"\.attn\.(un)?fold\.weights$"]


def convert_reference(state: dict[str, Tensor], model: STViT) -> dict[str, Tensor]:
    """Queries, keys and values are ordered by head first in the reference; super tokens have their attention inside."""
    converted = {}
    for name, value in state.items():
        if ".stoken_refine." in name:
            stage = int(name.split(".")[1])
            if ".qkv." in name:
                heads = model.config.heads[stage]
                value = value.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
            if model.config.stoken_sizes[stage] > 1:
                name = name.replace(".stoken_refine.", ".stoken_refine.attention.")
        converted[name] = value
    return converted
