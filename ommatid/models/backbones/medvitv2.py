"""MedViTV2: neighbourhood attention and convolutions, and in between pooled attention with a KAN for an MLP.

"Medical Image Classification with KAN-Integrated Transformers and Dilated Neighborhood Attention"
(arXiv 2502.13693).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive
from ommatid.models.reference import join_layers
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes
from ommatid.nn.block import Stage, pyramid
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.init import init_linear_and_conv_
from ommatid.nn.mbconv import MBConv
from ommatid.nn.mixers import NeighborhoodAttention, SpatialReductionAttention
from ommatid.nn.norm import BatchNorm, BatchNorm2d
from ommatid.nn.pool import AvgPool2d
from ommatid.nn.residual import Residual, stochastic_depth
from ommatid.nn.squeeze_excite import SqueezeExcite, rounded_width
from ommatid.ops.slices import in_slices

NEIGHBORHOOD = 7
LOCAL_RATIO, KAN_RATIO = 3, 2
"""Hidden width by width, of the convolutions of local blocks and of the KANs of global ones."""
UNREAD_RATIO = 2

GRID, REACH, SPREAD = 8, 2.0, 0.33
"""Bumps of a KAN's functions: how many, how far from zero the last ones are, and how wide each is."""


@dataclass(frozen=True, kw_only=True)
class MedViTV2Config(Config):
    """`mix_ratio` is the share of a global block's channels that attend, the others are convolved.

    `sr_ratios` are by stage; global blocks attend to the means of `sr_ratio`^2 tokens in a row.
    """

    dims: tuple[int, int, int, int] = (64, 128, 192, 384)
    depths: tuple[int, int, int, int] = (2, 2, 6, 1)
    stem_dims: tuple[int, int, int] = (64, 32, 64)
    sr_ratios: tuple[int, int, int, int] = (8, 4, 2, 1)
    head_dim: int = 32
    mix_ratio: float = 0.75

    def check(self) -> None:
        require_positive(dims=self.dims, depths=self.depths, stem_dims=self.stem_dims, sr_ratios=self.sr_ratios)
        require(self.depths[2] % 3 == 0, "depths", self.depths, "a multiple of 3 in the third stage")
        require_divisible(self.dims, (self.head_dim,) * 4, "head_dim")
        for dim in self.dims[1:]:
            attending, convolved = self.split(dim)
            fits = convolved > 0 and attending % self.head_dim == 0 and convolved % self.head_dim == 0
            allowed = (
                f"what splits {dim} channels into two multiples of head_dim ({self.head_dim}), the first one of 32"
            )
            require(fits, "mix_ratio", self.mix_ratio, allowed)

    def split(self, dim: int) -> tuple[int, int]:
        """The channels of a global block that attend, and those that are convolved."""
        attending = rounded_width(int(dim * self.mix_ratio), 32, keep=0.9)
        return attending, dim - attending

    def is_global(self, stage: int, block: int) -> bool:
        return (False, block == self.depths[1] - 1, block % 3 == 2, True)[stage]

    @property
    def smallest(self) -> int:
        """Side of the smallest image whose maps hold a neighbourhood, and whose tokens leave one pooled token."""
        sides = [(8, 0), (16, NEIGHBORHOOD), (32, 0)]
        needed = zip(sides, self.sr_ratios[1:], strict=True)
        return max((max(neighborhood, ratio) - 1) * stride + 1 for (stride, neighborhood), ratio in needed)


@register("medvitv2", MedViTV2Config)
class MedViTV2(Backbone):
    """MedViTV2. Takes square images; sides round up.

    Each global block keeps, frozen, published convolutions that influence nothing, so that weights and counts agree.
    """

    config: MedViTV2Config
    no_decay = ("inner.bias",)

    def __init__(self, config: MedViTV2Config) -> None:
        super().__init__(config)
        self.image_sizes = ImageSizes(smallest=config.smallest, square=True)
        self.channels, self.strides = config.dims, doubling_strides(4, 4)
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        widths = (config.in_channels, *config.stem_dims, config.stem_dims[-1])
        self.stem = nn.Sequential(
            *(
                ConvNorm(in_dim, dim, 3, stride=stride, act=nn.ReLU())
                for in_dim, dim, stride in zip(widths, widths[1:], (2, 1, 1, 2), strict=False)
            )
        )
        in_dims = (widths[-1], *config.dims)
        self.stages = nn.ModuleList(
            Stage(
                nn.Identity(),
                [medvit_block(config, i, j, dim if j else in_dims[i], rate) for j, rate in enumerate(rates[i])],
            )
            for i, dim in enumerate(config.dims)
        )
        self.norm = BatchNorm2d(config.dims[-1])
        self.head = classifier(config.dims[-1], config.num_classes)
        self.apply(init_linear_and_conv_)

    def maps(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2:]
        smallest = self.config.smallest
        allowed = f"equal sides of at least {smallest}"
        require(height == width >= smallest, "image size", (height, width), allowed)
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


def medvit_block(config: MedViTV2Config, stage: int, block: int, in_dim: int, drop_path: float) -> nn.Module:
    stride = 2 if stage and not block else 1
    if config.is_global(stage, block):
        return GlobalBlock(config, stage, in_dim, stride=stride, drop_path=drop_path)
    kernel_size = 3 if stage else 7
    return local_block(config, in_dim, config.dims[stage], kernel_size, stride=stride, drop_path=drop_path)


def local_block(
    config: MedViTV2Config, in_dim: int, dim: int, kernel_size: int, *, stride: int, drop_path: float
) -> nn.Sequential:
    """Neighbourhood attention, then an inverted bottleneck around which its normed input is added again."""
    attention = Reread(NeighborhoodAttention(dim, dim // config.head_dim, NEIGHBORHOOD))
    bottleneck = Residual(dim, inverted_bottleneck(dim, LOCAL_RATIO, kernel_size), norm=nn.Identity)
    return nn.Sequential(
        OrderedDict(
            embed=pooled_embed(in_dim, dim, stride),
            token=Residual(dim, attention, norm=BatchNorm2d, drop_path=drop_path),
            channel=Residual(dim, bottleneck, norm=BatchNorm2d),
        )
    )


class GlobalBlock(nn.Module):
    """Attention in some channels, convolutions that read them in the others, then a KAN.

    (B, H, W, C_in) -> (B, ceil(H / stride), ceil(W / stride), C).
    """

    def __init__(self, config: MedViTV2Config, stage: int, in_dim: int, *, stride: int, drop_path: float) -> None:
        super().__init__()
        dim, ratio, head_dim = config.dims[stage], config.sr_ratios[stage], config.head_dim
        attending, convolved = config.split(dim)
        reduction = SequencePooling(attending, ratio**2) if ratio > 1 else nn.Identity()
        attention = SpatialReductionAttention(attending, attending // head_dim, reduction)
        self.embed = pooled_embed(in_dim, attending, stride)
        self.token = Residual(attending, attention, norm=BatchNorm2d, drop_path=config.mix_ratio * drop_path)
        self.reduce = pooled_embed(attending, convolved, 1)
        self.local = Residual(
            convolved,
            nn.Sequential(
                ConvNorm(convolved, convolved, 3, groups=convolved // head_dim, act=nn.ReLU()),
                Conv2d(convolved, convolved, 1, bias=False),
            ),
            norm=nn.Identity,
            drop_path=(1 - config.mix_ratio) * drop_path,
        )
        kan = nn.Sequential(KANLayer(dim, KAN_RATIO * dim), KANLayer(KAN_RATIO * dim, dim))
        self.channel = Residual(dim, Reread(kan), norm=BatchNorm2d, drop_path=drop_path)
        self.unread = inverted_bottleneck(dim, UNREAD_RATIO, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.token(self.embed(x))
        return self.channel(torch.cat([attended, self.local(self.reduce(attended))], dim=-1))


def pooled_embed(in_dim: int, dim: int, stride: int) -> nn.Sequential:
    """Means of 2x2 pixels, of those inside the map, where the stride is 2; a projection where anything changes."""
    layers: dict[str, nn.Module] = {}
    if stride == 2:
        layers["pool"] = AvgPool2d(2, ceil_mode=True, count_include_pad=False)
    if stride == 2 or in_dim != dim:
        layers["proj"] = ConvNorm(in_dim, dim, 1)
    return nn.Sequential(OrderedDict(layers))


def inverted_bottleneck(dim: int, ratio: int, kernel_size: int) -> MBConv:
    """With a squeeze-and-excitation so narrow that it has `ratio` channels."""
    gate = SqueezeExcite(ratio * dim, ratio, gate=nn.Hardsigmoid())
    return MBConv(dim, dim, ratio * dim, kernel_size=kernel_size, act=nn.Hardswish(), gate=gate)


class Reread(nn.Module):
    """Applies `inner` to the numbers of a map in their order in (B, C, H, W), read as (B, H, W, C), and back.

    So a position of what `inner` sees has numbers of many positions and few channels. Published weights are made so.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        reread = x.permute(0, 3, 1, 2).reshape(x.shape)
        mixed = self.inner(reread)
        return mixed.reshape(x.shape[0], x.shape[3], *x.shape[1:3]).permute(0, 2, 3, 1)


class SequencePooling(nn.Module):
    """Means of `length` tokens in a row, row by row, normed: (B, H, W, C) -> (B, H W // length, C)."""

    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool1d(length)
        self.norm = BatchNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.pool(x.flatten(1, 2).mT).mT)


class KANLayer(nn.Module):
    """A learned function of every channel, summed: (..., C) -> (..., D).

    Functions are sums of bumps 1 - tanh^2 on a grid that is not trained, of the layer-normed input. "KAN:
    Kolmogorov-Arnold Networks" (arXiv 2404.19756) has splines there. Cost: 8 C D multiply-adds a position.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.grid = nn.Parameter(torch.linspace(-REACH, REACH, GRID), requires_grad=False)
        self.linear = nn.Linear(GRID * dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return in_slices(self._positions, x.flatten(0, -2)).unflatten(0, x.shape[:-1])

    def _positions(self, x: Tensor) -> Tensor:
        distance = (self.norm(x)[..., None] - self.grid) / SPREAD
        return self.linear((1 - distance.tanh().square()).flatten(-2))


TINY = MedViTV2Config()

VARIANTS = {
    "medvitv2_tiny": TINY,
    "medvitv2_small": TINY.replace(dims=(64, 128, 256, 512), depths=(2, 2, 6, 2)),
    "medvitv2_base": TINY.replace(dims=(96, 192, 384, 768), depths=(2, 2, 6, 2)),
    "medvitv2_large": TINY.replace(dims=(96, 256, 512, 1024), depths=(2, 2, 6, 2)),
}

REFERENCE_NAMES = [
    (r"\.patch_embed\.", ".embed.proj."),
    (r"\.projection\.(conv|norm)\.", r".reduce.proj.\1."),
    (r"\.mhca\.group_conv3x3\.", ".local.inner.0.conv."),
    (r"\.mhca\.norm\.", ".local.inner.0.norm."),
    (r"\.mhca\.projection\.", ".local.inner.1."),
    (r"\.attn\.rpb$", ".attn.bias"),
    (r"\.attn\.", ".token.inner.inner."),
    (r"\.e_mhsa\.q\.", ".token.inner.query."),
    (r"\.e_mhsa\.norm\.", ".token.inner.reduction.norm."),
    (r"\.e_mhsa\.", ".token.inner."),
    (r"\.kan\.layers\.", ".channel.inner.inner."),
    (r"\.layernorm\.", ".norm."),
    (r"\.rbf\.grid$", ".grid"),
    (r"\.spline_linear\.", ".linear."),
    (r"\.norm1\.", ".token.norm."),
    (r"\.norm2\.", ".channel.norm."),
    (r"\.bottleneck\.0\.", ".expand.conv."),
    (r"\.bottleneck\.1\.", ".expand.norm."),
    (r"\.bottleneck\.3\.", ".conv.conv."),
    (r"\.bottleneck\.4\.", ".conv.norm."),
    (r"\.bottleneck\.6\.fc\.0\.", ".gate.fc1."),
    (r"\.bottleneck\.6\.fc\.2\.", ".gate.fc2."),
    (r"\.bottleneck\.7\.", ".reduce.conv."),
    (r"\.bottleneck\.8\.", ".reduce.norm."),
    (r"^proj_head\.0\.", "head."),
]


def convert_reference(state: dict[str, Tensor], model: MedViTV2) -> dict[str, Tensor]:
    """Numbers blocks within their stages, says where each one's convolutions are, and joins keys and values."""
    config = model.config
    first = [0, *accumulate(config.depths)]

    def in_stage(match: re.Match[str]) -> str:
        stage = bisect_right(first, int(match[1])) - 1
        block = int(match[1]) - first[stage]
        where = "unread" if config.is_global(stage, block) else "channel.inner.inner"
        return f"stages.{stage}.blocks.{block}." + (f"{where}.bottleneck." if match[2] else "")

    renamed = {re.sub(r"^features\.(\d+)\.(conv\.conv\.)?", in_stage, name): value for name, value in state.items()}
    return join_layers(renamed, ("k", "v"), "key_value")
