"""Swin UNETR: a Swin encoder on volumes or images, and a convolutional decoder with a skip at every resolution.

"Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images" (arXiv 2201.01266).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_divisible, require_positive, require_stages
from ommatid.models.dense import Segmenter
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.reference import zero_based
from ommatid.models.registry import register
from ommatid.nn.block import Block
from ommatid.nn.conv import Conv2d, Conv3d, ConvTranspose2d, ConvTranspose3d
from ommatid.nn.feedforward import MLP
from ommatid.nn.mixers.window import masked_bias
from ommatid.nn.position import of_every_pair
from ommatid.ops.attention import attend
from ommatid.ops.shifted_windows import mix_in_windows

HALVINGS = 5
"""Resolutions below the image's; sides are multiples of 2^5."""

SLOPE = 0.01
"""Of the leaky ReLUs."""


@dataclass(frozen=True, kw_only=True)
class SwinUNETRConfig(PartConfig):
    """`window_size` has one side for each of the `spatial_dims` axes.

    `normalize`: whether the decoder gets its skips layer-normed. `use_v2`: a convolutional block before each stage.
    """

    in_channels: int = 1
    num_classes: int = 14
    dim: int = 48
    patch_size: int = 2
    depths: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: tuple[int, ...] = (7, 7, 7)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    normalize: bool = True
    patch_norm: bool = False
    merging: Literal["merging", "mergingv2"] = "merging"
    use_v2: bool = False
    spatial_dims: int = 3

    def check(self) -> None:
        require(self.spatial_dims in (2, 3), "spatial_dims", self.spatial_dims, "2 (images) or 3 (volumes)")
        require_stages(depths=self.depths, heads=self.heads)
        require(len(self.depths) == 4, "depths", self.depths, "four stages")
        sides = len(self.window_size) == self.spatial_dims
        require(sides, "window_size", self.window_size, f"one side for each of the {self.spatial_dims} axes")
        require_positive(
            in_channels=self.in_channels,
            num_classes=self.num_classes,
            depths=self.depths,
            window_size=self.window_size,
            mlp_ratio=self.mlp_ratio,
        )
        require(self.dim > 0 and self.dim % 12 == 0, "dim", self.dim, "a multiple of 12")
        require(self.patch_size == 2, "patch_size", self.patch_size, "2: the decoder doubles at every resolution")
        require_divisible(self.dims[:4], self.heads)

    @property
    def dims(self) -> tuple[int, ...]:
        """Widths of the five resolutions below the image's."""
        return tuple(self.dim * 2**level for level in range(HALVINGS))


@register("swin_unetr", SwinUNETRConfig)
class SwinUNETR(Segmenter):
    """Volumes (B, C, D, H, W) or images (B, C, H, W) -> logits (B, K, ...) of the same sides.

    Sides that are no multiples of 32 are zero-padded at their ends.

    Raises:
        ValueError: every side is 32 or less: the deepest map has one position, nothing to norm over.
    """

    config: SwinUNETRConfig
    no_decay = ("table",)

    def __init__(self, config: SwinUNETRConfig) -> None:
        super().__init__(config)
        self.num_classes = config.num_classes
        dims, volume = config.dims, config.spatial_dims == 3
        self.patches = (Conv3d if volume else Conv2d)(config.in_channels, config.dim, 2, stride=2)
        self.patch_norm = nn.LayerNorm(config.dim) if config.patch_norm else nn.Identity()
        self.before = nn.ModuleList(
            ConvBlock(dim, dim, volume=volume) if config.use_v2 else nn.Identity() for dim in dims[:4]
        )
        self.stages = nn.ModuleList(swin_stage(config, stage) for stage in range(4))
        ins, outs = [config.in_channels, *dims[:3], dims[4]], [config.dim, *dims[:3], dims[4]]
        self.skips = nn.ModuleList(ConvBlock(*widths, volume=volume) for widths in zip(ins, outs, strict=True))
        self.ups = nn.ModuleList(
            UpBlock(dim, out_dim, volume=volume)
            for dim, out_dim in zip(reversed(dims), (*reversed(dims[:4]), config.dim), strict=True)
        )
        self.classifier = nn.Linear(config.dim, config.num_classes)

    def forward(self, image: Tensor) -> Tensor:
        sides = image.shape[2:]
        axes = self.config.spatial_dims
        require(len(sides) == axes, "image axes", len(sides), f"{axes} beside batch and channels")
        require(max(sides) > 2**HALVINGS, "image size", tuple(sides), f"more than {2**HALVINGS} along one axis")
        padding = [amount for side in reversed(sides) for amount in (0, -side % 2**HALVINGS)]
        whole = F.pad(image, padding).movedim(1, -1).contiguous()
        logits = self.classifier(self.decode(whole, self.encode(whole)))
        for axis, side in enumerate(sides):
            logits = logits.narrow(axis + 1, 0, side)
        return logits.movedim(-1, 1)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Image (B, ..., C) -> what the decoder gets of the five resolutions, fine to coarse."""
        x = self.patch_norm(self.patches(image))
        maps = [x]
        for before, stage in zip(self.before, self.stages, strict=True):
            x = stage(before(x))
            maps.append(x)
        return [F.layer_norm(x, x.shape[-1:]) for x in maps] if self.config.normalize else maps

    def decode(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """The map at the image's resolution, (B, ..., dim)."""
        full, half, quarter, eighth, deepest = self.skips
        skips = [maps[3], eighth(maps[2]), quarter(maps[1]), half(maps[0]), full(image)]
        x = deepest(maps[4])
        for up, skip in zip(self.ups, skips, strict=True):
            x = up(x, skip)
        return x


class ConvBlock(nn.Module):
    """Two 3x3(x3) convolutions with instance norms around a shortcut: (B, ..., C_in) -> (B, ..., C).

    Nothing has biases; the norms, per image and channel, have no parameters.
    """

    def __init__(self, in_dim: int, dim: int, *, volume: bool) -> None:
        super().__init__()
        conv = Conv3d if volume else Conv2d
        self.conv1 = conv(in_dim, dim, 3, padding=1, bias=False)
        self.conv2 = conv(dim, dim, 3, padding=1, bias=False)
        self.conv3 = nn.Linear(in_dim, dim, bias=False) if in_dim != dim else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.conv3 is None else instance_norm(self.conv3(x))
        x = F.leaky_relu(instance_norm(self.conv1(x)), SLOPE)
        return F.leaky_relu(instance_norm(self.conv2(x)) + shortcut, SLOPE)


def instance_norm(x: Tensor) -> Tensor:
    """Every channel of every image normed over its map: (B, ..., C) -> (B, ..., C)."""
    variance, mean = torch.var_mean(x.float(), tuple(range(1, x.dim() - 1)), correction=0, keepdim=True)
    scale = (variance + 1e-5).rsqrt()
    return torch.addcmul((-mean * scale).to(x.dtype), x, scale.to(x.dtype))


class UpBlock(nn.Module):
    """Doubles a map, joins the skip: (B, ..., C_in) and (B, 2 ..., C) -> (B, 2 ..., C)."""

    def __init__(self, in_dim: int, dim: int, *, volume: bool) -> None:
        super().__init__()
        self.enlarge = (ConvTranspose3d if volume else ConvTranspose2d)(in_dim, dim, 2, stride=2, bias=False)
        self.block = ConvBlock(2 * dim, dim, volume=volume)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.block(torch.cat([self.enlarge(x), skip], dim=-1))


class CutWindowAttention(nn.Module):
    """Self-attention in (shifted) windows of any number of axes, cut to maps that are smaller: (B, ..., C) -> the same.

    Where a window is cut to n tokens, the biases are those of the first n tokens of a whole one, as published: tokens
    are counted, not placed. An axis on which the window is cut does not shift. Maps are zero-padded to whole windows.

    Args:
        dim: C.
        heads: number of heads; divides C.
        window: sides.
        shifted: by half a window.
        qkv_bias: bias of the joint query, key and value projection.
    """

    def __init__(self, dim: int, heads: int, window: tuple[int, ...], *, shifted: bool, qkv_bias: bool) -> None:
        super().__init__()
        self.index: Tensor
        self.heads = heads
        self.window = window
        self.shifted = shifted
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.table = nn.Parameter(torch.zeros(prod(2 * side - 1 for side in window), heads))
        self.register_buffer("index", offset_index(window), persistent=False)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        sides = x.shape[1:-1]
        window = tuple(min(side, most) for side, most in zip(sides, self.window, strict=True))
        shift = tuple(
            most // 2 if self.shifted and side > most else 0 for side, most in zip(sides, self.window, strict=True)
        )
        tokens = prod(window)
        bias = of_every_pair(self.table, self.index[:tokens, :tokens])

        def mix(windows: Tensor, foreign: Tensor | None) -> Tensor:
            query, key, value = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).unbind(2)
            return self.proj(attend(query, key, value, bias=masked_bias(bias, foreign)))

        pairs = reversed(list(zip(sides, window, strict=True)))
        padding = [0, 0, *(amount for side, length in pairs for amount in (0, -side % length))]
        mixed = mix_in_windows(mix, F.pad(x, padding), window, shift)
        for axis, side in enumerate(sides):
            mixed = mixed.narrow(axis + 1, 0, side)
        return mixed


def offset_index(window: tuple[int, ...]) -> Tensor:
    """(N, N) integers: which row of a table over offsets belongs to each (query, key) pair of a window."""
    places = torch.cartesian_prod(*(torch.arange(side) for side in window)).view(-1, len(window))
    index = torch.zeros(len(places), len(places), dtype=torch.long)
    for axis, side in enumerate(window):
        place = places[:, axis]
        index = index * (2 * side - 1) + place[:, None] - place[None, :] + side - 1
    return index


class CubeMerging(nn.Module):
    """Joins each 2x2(x2) neighbourhood into one position: (B, ..., C) -> (B, ceil(.../2), 2 C).

    Args:
        dim: C.
        order: offsets along each axis of the neighbours, as their channels follow one another.
    """

    def __init__(self, dim: int, order: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.order = order
        self.norm = nn.LayerNorm(len(order) * dim)
        self.reduction = nn.Linear(len(order) * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        padding = [0, 0, *(amount for side in reversed(x.shape[1:-1]) for amount in (0, side % 2))]
        even = F.pad(x, padding)
        neighbours = [even[(slice(None), *(slice(start, None, 2) for start in offsets))] for offsets in self.order]
        return self.reduction(self.norm(torch.cat(neighbours, dim=-1)))


PUBLISHED_ORDER = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
"""Of the neighbours in a volume, (depth, row, column), in the first version."""


def neighbour_order(merging: str, axes: int) -> tuple[tuple[int, ...], ...]:
    if axes == 2:
        return ((0, 0), (1, 0), (0, 1), (1, 1))
    return PUBLISHED_ORDER if merging == "merging" else tuple(product((0, 1), repeat=3))


def swin_stage(config: SwinUNETRConfig, stage: int) -> nn.Sequential:
    """Blocks at one resolution, then merging: (B, ..., C) -> (B, .../2, 2 C)."""
    dim = config.dims[stage]

    def block(index: int) -> Block:
        mixer = CutWindowAttention(
            dim, config.heads[stage], config.window_size, shifted=index % 2 == 1, qkv_bias=config.qkv_bias
        )
        return Block(dim, mixer, MLP(dim, int(dim * config.mlp_ratio)))

    merging = CubeMerging(dim, neighbour_order(config.merging, config.spatial_dims))
    return nn.Sequential(nn.Sequential(*(block(index) for index in range(config.depths[stage]))), merging)


def reference_outputs(model: SwinUNETR, image: Tensor) -> dict[str, Tensor]:
    maps = [features.movedim(-1, 1) for features in model.encode(image.movedim(1, -1).contiguous())]
    logits = model(image)
    outputs = {f"stage{index}": features for index, features in enumerate(maps)} | {"logits": logits}
    for step in (4, 8):
        outputs[f"logits_stride{step}"] = logits[(..., *(slice(None, None, step) for _ in image.shape[2:]))]
    return outputs


BTCV = SwinUNETRConfig()

VARIANTS = {
    "swin_unetr_12": BTCV.replace(dim=12),
    "swin_unetr_24": BTCV.replace(dim=24),
    "swin_unetr_48": BTCV,
    "swin_unetr_48_brats": BTCV.replace(in_channels=4, num_classes=3),
    "swin_unetr_48_v2": BTCV.replace(use_v2=True),
}

_SKIPS = {"1": 0, "2": 1, "3": 2, "4": 3, "10": 4}
"""Places of the reference's encoder blocks, which it numbers so."""

REFERENCE_NAMES = [
    (r"^swinViT\.patch_embed\.proj\.", "patches."),
    (r"^swinViT\.patch_embed\.norm\.", "patch_norm."),
    (r"^swinViT\.layers(\d)\.0\.blocks\.", zero_based("stages.{}.0.")),
    (r"^swinViT\.layers(\d)\.0\.downsample\.", zero_based("stages.{}.1.")),
    (r"^swinViT\.layers(\d)c\.0\.layer\.", zero_based("before.{}.")),
    (r"^encoder(\d+)\.layer\.", lambda match: f"skips.{_SKIPS[match[1]]}."),
    (r"^decoder(\d)\.transp_conv\.conv\.", lambda match: f"ups.{5 - int(match[1])}.enlarge."),
    (r"^decoder(\d)\.conv_block\.", lambda match: f"ups.{5 - int(match[1])}.block."),
    (r"^out\.conv\.conv\.", "classifier."),
    (r"\.(conv\d)\.conv\.", r".\1."),
    (r"\.relative_position_bias_table$", ".table"),
    (r"\.linear(\d)\.", r".fc\1."),
    *BLOCK_NAMES,
]

REFERENCE_IGNORED = [r"\.relative_position_index$"]
