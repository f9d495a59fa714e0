"""PfLayer: a ResNet, a ViT and a PiT in which max pooling, free of parameters, replaces spatial layers.

"Learning Features with Parameter-Free Layers" (arXiv 2202.02777).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.reference import changed, one_later, zero_based
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.block import Block, Stage, pyramid
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention, MaxPoolMixer
from ommatid.nn.norm import LayerNorm
from ommatid.nn.pool import AvgPool2d, MaxPool2d
from ommatid.nn.position import AbsolutePosition, positions_on_grid
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.resnet import ResNetBlock, resnet_stem


@dataclass(frozen=True, kw_only=True)
class PfLayerConfig(Config):
    """`block`, `depths` and `width_mult` describe the "resnet"; `patch_size`, `dim`, `depth` and `heads` (a number) the
    "vit"; `patch_size`, `stride`, `dims`, `depths` and `heads` (one for each stage) the "pit"."""

    arch: Literal["resnet", "vit", "pit"] = "pit"
    block: Literal["max", "hybrid", "conv"] = "max"
    depths: tuple[int, ...] = (2, 6, 4)
    width_mult: float = 1.0
    image_size: int = 224
    patch_size: int = 16
    stride: int = 8
    dim: int = 192
    depth: int = 12
    dims: tuple[int, ...] = (64, 128, 256)
    heads: int | tuple[int, ...] = (2, 4, 8)
    mlp_ratio: float = 4.0

    def check(self) -> None:
        require_positive(patch_size=self.patch_size, stride=self.stride)
        require(min(self.depths, default=0) > 0, "depths", self.depths, "at least one block in every stage")
        if self.arch == "resnet":
            require(int(64 * self.width_mult) > 0, "width_mult", self.width_mult, "at least 1/64")
            return
        require(self.grid[0] > 0, "image_size", self.image_size, f"at least one patch of {self.patch_size}")
        if self.arch == "vit":
            require(isinstance(self.heads, int), "heads", self.heads, "an integer where arch is 'vit'")
            require_divisible(self.dim, self.stage_heads[0])
            return
        require(not isinstance(self.heads, int), "heads", self.heads, "one for each stage where arch is 'pit'")
        require_stages(dims=self.dims, depths=self.depths, heads=self.stage_heads)
        require_divisible(self.dims, self.stage_heads)
        widens = all(wide % narrow == 0 for narrow, wide in zip(self.dims, self.dims[1:], strict=False))
        require(widens, "dims", self.dims, "multiples, each of the one before")

    @property
    def stage_heads(self) -> tuple[int, ...]:
        return (self.heads,) if isinstance(self.heads, int) else self.heads

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the first map of a "vit" or "pit"."""
        stride = self.patch_size if self.arch == "vit" else self.stride
        side = max(0, (self.image_size - self.patch_size) // stride + 1)
        return side, side


@register("pflayer", PfLayerConfig)
class PfLayer(Backbone):
    """ResNet, ViT or PiT with parameter-free layers.

    Position tables follow `image_size` and are resampled for images of other sizes, square or not. The hybrid ResNet
    needs even maps wherever it halves them.
    """

    config: PfLayerConfig
    no_decay = ("position.table",)

    def __init__(self, config: PfLayerConfig) -> None:
        super().__init__(config)
        self.trunk = make_trunk(config)
        self.channels, self.strides = self.trunk.channels, self.trunk.strides
        self.norm = nn.Identity() if config.arch == "resnet" else LayerNorm(self.channels[-1])
        self.head = classifier(self.channels[-1], config.num_classes)
        if config.arch == "vit":
            self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        if self.config.arch != "resnet":
            require_at_least(image, self.config.patch_size)
        return self.trunk(channels_last(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


def make_trunk(config: PfLayerConfig) -> ResNetTrunk | PlainTrunk | PyramidTrunk:
    if config.arch == "resnet":
        return ResNetTrunk(config)
    return PlainTrunk(config) if config.arch == "vit" else PyramidTrunk(config)


class ResNetTrunk(nn.Module):
    """Bottleneck ResNet: (B, H, W, C_in) -> one map per stage."""

    def __init__(self, config: PfLayerConfig) -> None:
        super().__init__()
        widths = [int(64 * 2**stage * config.width_mult) for stage in range(len(config.depths))]
        self.channels = tuple(4 * width for width in widths)
        self.strides = doubling_strides(4, len(widths))
        self.halves_evenly = config.block == "hybrid"
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = resnet_stem(config.in_channels, 64)
        in_dim, stages = 64, []
        for stage, width in enumerate(widths):
            blocks = []
            for index, rate in enumerate(rates[stage]):
                stride = 2 if stage and index == 0 else 1
                blocks.append(bottleneck(in_dim, width, stride, block=config.block, drop_path=rate))
                in_dim = 4 * width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        features, halvings = self.stem(image), len(self.stages) - 1
        even = all(side % 2**halvings == 0 for side in features.shape[1:3])
        allowed = f"multiples of {4 * 2**halvings} for hybrid blocks"
        require(even or not self.halves_evenly, "image size", tuple(image.shape[1:3]), allowed)
        return pyramid(self.stages, features)


def bottleneck(in_dim: int, width: int, stride: int, *, block: str, drop_path: float) -> ResNetBlock:
    """A spatial operation between 1x1 convolutions, and a shortcut: (B, H, W, C_in) -> (B, H', W', 4 width)."""
    branch = nn.Sequential(
        ConvNorm(in_dim, width, 1, act=nn.ReLU()),
        spatial_operation(block, width, stride),
        ConvNorm(width, 4 * width, 1),
    )
    return ResNetBlock(in_dim, 4 * width, branch, stride=stride, drop_path=drop_path)


def spatial_operation(block: str, width: int, stride: int) -> nn.Module:
    if block == "conv":
        return ConvNorm(width, width, 3, stride=stride, act=nn.ReLU())
    if block == "hybrid" and stride == 2:
        return nn.Sequential(AvgPool2d(2), ConvNorm(width, width, 3, act=nn.ReLU()))
    return MaxPool2d(3, stride=stride, padding=1)


class PlainTrunk(nn.Module):
    """ViT without a class token: (B, H, W, C_in) -> one map."""

    def __init__(self, config: PfLayerConfig) -> None:
        super().__init__()
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        self.position = AbsolutePosition(config.grid, config.dim)
        self.blocks = nn.Sequential(*alternating_blocks(config.dim, config.stage_heads[0], config.mlp_ratio, rates))

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.blocks(self.position(self.stem(image)))]


class PyramidTrunk(nn.Module):
    """PiT without a class token: overlapping patches, and depthwise convolutions between the stages."""

    def __init__(self, config: PfLayerConfig) -> None:
        super().__init__()
        dims, blocks = config.dims, sum(config.depths)
        self.channels, self.strides = dims, doubling_strides(config.stride, len(dims))
        # The reference's rates rise as if one more block followed.
        rates = stochastic_depth(config.drop_path_rate * (blocks - 1) / blocks, config.depths)
        self.stem = PatchEmbed(config.in_channels, dims[0], config.patch_size, stride=config.stride)
        self.position = AbsolutePosition(config.grid, dims[0], antialias=False)
        self.stages = nn.ModuleList(
            Stage(
                Conv2d(dims[i - 1], dim, 3, stride=2, padding=1, groups=dims[i - 1]) if i else nn.Identity(),
                alternating_blocks(dim, config.stage_heads[i], config.mlp_ratio, rates[i]),
            )
            for i, dim in enumerate(dims)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.position(self.stem(image)))


def alternating_blocks(dim: int, heads: int, mlp_ratio: float, rates: Sequence[float]) -> list[Block]:
    """Attention in even blocks, max pooling in odd ones."""
    return [
        Block(
            dim,
            MaxPoolMixer(dim) if index % 2 else Attention(dim, heads),
            MLP(dim, int(dim * mlp_ratio)),
            norm=LayerNorm,
            drop_path=rate,
        )
        for index, rate in enumerate(rates)
    ]


RESNET50 = PfLayerConfig(arch="resnet", depths=(3, 4, 6, 3))
VIT_TI = PfLayerConfig(arch="vit", dim=192, heads=3)

VARIANTS = {
    "resnet50_max": RESNET50,
    "resnet50_hybrid": RESNET50.replace(block="hybrid"),
    "vit_ti_max": VIT_TI,
    "vit_s_max": VIT_TI.replace(dim=384, heads=6),
    "vit_b_max": VIT_TI.replace(dim=768, heads=12),
    "pit_ti_max": PfLayerConfig(),
    "pit_s_max": PfLayerConfig(dims=(144, 288, 576), heads=(3, 6, 12)),
    "pit_b_max": PfLayerConfig(patch_size=14, stride=7, dims=(256, 512, 1024), depths=(3, 6, 4), heads=(4, 8, 16)),
}

REFERENCE_NAMES = [
    (r"^(patch_embed|pos_embed|blocks|transformers|pools|conv1|layer\d)\b", r"trunk.\1"),
    (r"^trunk\.patch_embed\.(proj|conv)\.", "trunk.stem.proj."),
    (r"^trunk\.pos_embed$", "trunk.position.table"),
    (r"^trunk\.transformers\.", "trunk.stages."),
    (r"^trunk\.pools\.(\d+)\.conv\.", one_later("trunk.stages.{}.downsample.")),
    (r"\.blocks\.(\d*[13579])\.attn\.qkv\.", r".blocks.\1.attn.expand."),
    (r"^trunk\.conv1\.", "trunk.stem.0."),
    (r"^trunk\.layer(\d+)\.", zero_based("trunk.stages.{}.")),
    (r"\.reduction_block\.", ".branch.0."),
    (r"\.conv_block\.", ".branch.1."),
    (r"\.expansion_block\.", ".branch.2."),
    (r"\.downsample\.(?=[01]\.)", ".shortcut."),
    (r"\.(stem\.0|branch\.0|branch\.1\.1|branch\.2|shortcut)\.0\.", r".\1.conv."),
    (r"\.(stem\.0|branch\.0|branch\.1\.1|branch\.2|shortcut)\.1\.", r".\1.norm."),
    (r"^fc\.", "head."),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: PfLayer) -> dict[str, Tensor]:
    """Gives the table of positions its axes: the ViT stores a sequence, the PiT a channels-first map."""
    if model.config.arch == "vit":
        return changed(state, "^pos_embed$", lambda table: positions_on_grid(table, model.config.grid))
    return changed(state, "^pos_embed$", lambda table: table.permute(0, 2, 3, 1))
