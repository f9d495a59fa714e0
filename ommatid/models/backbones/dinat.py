"""NAT and DiNAT: every token attends to the neighbourhood around itself, sparse and far or dense and near.

"Neighborhood Attention Transformer" (arXiv 2204.07143) and
"Dilated Neighborhood Attention Transformer" (arXiv 2209.15001).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_stages
from ommatid.models.names import BLOCK_NAMES, SWIN_TABLES
from ommatid.models.reference import changed, one_later, query_minus_key
from ommatid.models.registry import register
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.conv import Conv2d
from ommatid.nn.embed import PatchEmbed, PatchMerging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention, NeighborhoodAttention
from ommatid.nn.position import RelativePositionBias
from ommatid.nn.residual import stochastic_depth
from ommatid.ops.windows import pad_to_multiple

Variant = Literal["nat", "dinat", "dinat_s", "nat_isotropic", "dinat_isotropic", "vit_rpb"]
CONVOLUTIONAL = ("nat", "dinat")
HIERARCHICAL = (*CONVOLUTIONAL, "dinat_s")


@dataclass(frozen=True, kw_only=True)
class DiNATConfig(Config):
    """Two groups of fields; `variant` says which one counts.

    nat, dinat, dinat_s: `dims`, `depths` and `heads` per level, `dilations` per layer.
    The isotropic ones and vit_rpb: `image_size`, `dim`, `depth`, one number of `heads`, and `dilation`, which is that
    of every second layer.
    """

    variant: Variant = "dinat"
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (3, 4, 6, 5)
    heads: tuple[int, ...] | int = (2, 4, 8, 16)
    kernel_size: int | None = 7
    dilations: tuple[tuple[int, ...], ...] | None = None
    mlp_ratio: float = 3.0
    qkv_bias: bool = True
    layer_scale: float | None = None
    image_size: int = 224
    patch_size: int = 4
    dim: int = 384
    depth: int = 12
    dilation: int | None = None

    def check(self) -> None:
        if self.variant in HIERARCHICAL:
            heads = (self.heads,) if isinstance(self.heads, int) else self.heads
            require_stages(dims=self.dims, depths=self.depths, heads=heads)
            require_divisible(self.dims, heads)
            matches = self.dilations is None or [len(level) for level in self.dilations] == list(self.depths)
            require(
                matches,
                "dilations",
                self.dilations,
                f"null, or a list for each level with as many entries as depths {self.depths}",
            )
        else:
            require(isinstance(self.heads, int), "heads", self.heads, "one integer")
            require_divisible(self.dim, self.heads)
            whole = self.image_size % self.patch_size == 0
            require(whole, "image_size", self.image_size, f"a multiple of patch_size ({self.patch_size})")
        if self.variant == "vit_rpb":
            require(self.kernel_size is None, "kernel_size", self.kernel_size, "null: vit_rpb attends to the whole map")
        else:
            odd = self.kernel_size is not None and self.kernel_size > 1 and self.kernel_size % 2 == 1
            require(odd, "kernel_size", self.kernel_size, "an odd integer above 1")

    def level_heads(self, level: int) -> int:
        return self.heads if isinstance(self.heads, int) else self.heads[level]

    def layer_dilation(self, level: int, layer: int) -> int:
        if self.variant in HIERARCHICAL:
            return self.dilations[level][layer] if self.dilations else 1
        return (self.dilation or 1) if layer % 2 else 1


@register("dinat", DiNATConfig)
class DiNAT(Backbone):
    """NAT, DiNAT, DiNAT_s, their isotropic forms, and the ViT with relative positions that they are measured against.

    Every variant takes any image but `vit_rpb`, whose position table fixes the size.
    """

    config: DiNATConfig
    no_decay = ("inner.bias", "table")

    def __init__(self, config: DiNATConfig) -> None:
        super().__init__(config)
        hierarchical = config.variant in HIERARCHICAL
        dims, depths = (config.dims, config.depths) if hierarchical else ((config.dim,), (config.depth,))
        self.channels = dims
        self.strides = doubling_strides(4 if config.variant in CONVOLUTIONAL else config.patch_size, len(dims))
        self.stem = (
            ConvTokenizer(config.in_channels, dims[0])
            if config.variant in CONVOLUTIONAL
            else PatchEmbed(config.in_channels, dims[0], config.patch_size, norm=nn.LayerNorm(dims[0]))
        )
        downsample = conv_downsample if config.variant in CONVOLUTIONAL else PatchMerging
        rates = stochastic_depth(config.drop_path_rate, depths)
        self.stages = pyramid_stages(
            dims, rates, downsample, lambda i, j, rate: dinat_block(config, i, j, drop_path=rate)
        )
        self.norm = nn.LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(self._whole_patches(channels_last(image))))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))

    def _whole_patches(self, image: Tensor) -> Tensor:
        if self.config.variant == "vit_rpb":
            size = self.config.image_size
            require(
                image.shape[1:3] == (size, size),
                "image size",
                tuple(image.shape[1:3]),
                f"({size}, {size}), fixed by image_size",
            )
        if self.config.variant in CONVOLUTIONAL:
            return image
        return pad_to_multiple(image, (self.config.patch_size, self.config.patch_size))


def dinat_block(config: DiNATConfig, level: int, layer: int, *, drop_path: float) -> Block:
    dim = config.dims[level] if config.variant in HIERARCHICAL else config.dim
    scale = config.layer_scale if config.variant in CONVOLUTIONAL else None
    mlp = MLP(dim, int(dim * config.mlp_ratio))
    return Block(dim, dinat_mixer(config, dim, level, layer), mlp, layer_scale=scale, drop_path=drop_path)


def dinat_mixer(config: DiNATConfig, dim: int, level: int, layer: int) -> nn.Module:
    heads = config.level_heads(level)
    if config.kernel_size is None:
        side = config.image_size // config.patch_size
        return Attention(dim, heads, qkv_bias=config.qkv_bias, bias=RelativePositionBias((side, side), heads))
    dilation = config.layer_dilation(level, layer)
    return NeighborhoodAttention(dim, heads, config.kernel_size, dilation=dilation, qkv_bias=config.qkv_bias)


class ConvTokenizer(nn.Module):
    """Two 3x3 convolutions of stride 2 with nothing between them, then a norm.

    (B, H, W, C_in) -> (B, ceil(H / 4), ceil(W / 4), C).
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_dim, dim // 2, 3, stride=2, padding=1)
        self.conv2 = Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.conv2(self.conv1(image)))


def conv_downsample(in_dim: int, dim: int) -> PatchEmbed:
    return PatchEmbed(in_dim, dim, 3, stride=2, padding=1, norm=nn.LayerNorm(dim), bias=False)


def far_and_near(depths: tuple[int, ...], far: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Dilations 1, far, 1, far, ... in every level."""
    return tuple(
        tuple((1, dilation)[layer % 2] for layer in range(depth)) for depth, dilation in zip(depths, far, strict=True)
    )


def hierarchical(
    variant: Variant, width: int, depths: tuple[int, ...], far: tuple[int, ...] | None, **others
) -> DiNATConfig:
    """The published hierarchical configurations: widths double from level to level, 32 channels a head."""
    dims = tuple(width * 2**level for level in range(4))
    dilations = far_and_near(depths, far) if far else None
    heads = tuple(dim // 32 for dim in dims)
    return DiNATConfig(variant=variant, dims=dims, depths=depths, heads=heads, dilations=dilations, **others)


def isotropic(variant: Variant, dim: int, kernel_size: int | None, dilation: int | None) -> DiNATConfig:
    return DiNATConfig(
        variant=variant,
        dim=dim,
        heads=dim // 32,
        patch_size=16,
        mlp_ratio=4,
        kernel_size=kernel_size,
        dilation=dilation,
    )


MINI, DEEP = (3, 4, 6, 5), (3, 4, 18, 5)
SWIN_TINY, SWIN_DEEP = (2, 2, 6, 2), (2, 2, 18, 2)
FAR, FAR_384 = (8, 4, 2, 1), (13, 6, 3, 1)

VARIANTS = {
    "nat_mini": hierarchical("nat", 64, MINI, None),
    "nat_tiny": hierarchical("nat", 64, DEEP, None),
    "nat_small": hierarchical("nat", 96, DEEP, None, mlp_ratio=2, layer_scale=1e-5),
    "nat_base": hierarchical("nat", 128, DEEP, None, mlp_ratio=2, layer_scale=1e-5),
    "dinat_mini": hierarchical("dinat", 64, MINI, FAR),
    "dinat_tiny": hierarchical("dinat", 64, DEEP, FAR),
    "dinat_small": hierarchical("dinat", 96, DEEP, FAR, mlp_ratio=2),
    "dinat_base": hierarchical("dinat", 128, DEEP, FAR, mlp_ratio=2, layer_scale=1e-5),
    "dinat_large": hierarchical("dinat", 192, DEEP, FAR, mlp_ratio=2),
    "dinat_large_384": hierarchical("dinat", 192, DEEP, FAR_384, mlp_ratio=2),
    "dinat_large_384_11x11": hierarchical("dinat", 192, DEEP, FAR, mlp_ratio=2, kernel_size=11),
    "dinat_s_tiny": hierarchical("dinat_s", 96, SWIN_TINY, FAR, mlp_ratio=4),
    "dinat_s_small": hierarchical("dinat_s", 96, SWIN_DEEP, FAR, mlp_ratio=4),
    "dinat_s_base": hierarchical("dinat_s", 128, SWIN_DEEP, FAR, mlp_ratio=4),
    "dinat_s_large": hierarchical("dinat_s", 192, SWIN_DEEP, FAR, mlp_ratio=4),
    "nat_isotropic_small": isotropic("nat_isotropic", 384, 7, 1),
    "nat_isotropic_base": isotropic("nat_isotropic", 768, 7, 1),
    "dinat_isotropic_small": isotropic("dinat_isotropic", 384, 7, 2),
    "dinat_isotropic_base": isotropic("dinat_isotropic", 768, 7, 2),
    "vit_rpb_small": isotropic("vit_rpb", 384, None, None),
    "vit_rpb_base": isotropic("vit_rpb", 768, None, None),
}

REFERENCE_NAMES = [
    (r"^patch_embed\.proj\.0\.", "stem.conv1."),
    (r"^patch_embed\.proj\.1\.", "stem.conv2."),
    (r"^patch_embed\.", "stem."),
    (r"^(?:levels|layers)\.(\d+)\.blocks\.", r"stages.\1.blocks."),
    (r"^layers\.(\d+)\.(?=norm|attn|mlp)", r"stages.0.blocks.\1."),
    (r"^levels\.(\d+)\.downsample\.reduction\.", one_later("stages.{}.downsample.proj.")),
    (r"^(?:levels|layers)\.(\d+)\.downsample\.", one_later("stages.{}.downsample.")),
    (r"\.attn\.rpb(?=$|\.)", ".token.inner.bias"),
    *BLOCK_NAMES,
]

REFERENCE_IGNORED = SWIN_TABLES


def convert_reference(state: dict[str, Tensor], model: DiNAT) -> dict[str, Tensor]:
    """`vit_rpb` indexes its table by key - query, heads first; ours goes by query - key, heads last."""
    if model.config.variant != "vit_rpb":
        return state
    state = {f"{name}.table" if name.endswith(".rpb") else name: value for name, value in state.items()}
    return changed(state, r"\.rpb\.table$", query_minus_key)
