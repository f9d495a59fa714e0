"""Attention Swin U-Net: Swin blocks down and up, with attention between a decoder map and its skip.

"Attention Swin U-Net: Cross-Contextual Attention Mechanism for Skin Lesion Segmentation" (arXiv 2210.16898).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive, require_stages
from ommatid.models.dense import Segmenter
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.registry import register
from ommatid.models.sizes import halved, pair, require_patches, whole_patches
from ommatid.nn.block import Block
from ommatid.nn.embed import PatchEmbed, PatchMerging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import WindowAttention
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.upsample import PatchExpand
from ommatid.ops.attention import attend
from ommatid.ops.windows import window_and_shift

PATCH = 4
LEVELS = 4
COARSEST = PATCH * 2 ** (LEVELS - 1)
CLASSES = 9
CROSS_HEADS, CROSS_WIDTH = 8, 64
"""Of the attention between decoder and skip, whatever the width of the maps."""


@dataclass(frozen=True, kw_only=True)
class AttSwinUNetConfig(PartConfig):
    """`skip_num` decoder steps attend to their skips in mode "cross_contextual_attention".

    In mode "swin", `spatial_attention` fuses every skip twice; otherwise, it and `operation` change nothing, as
    published: the maps that they are about were thrown away.
    """

    image_size: int | tuple[int, int] = 224
    num_classes: int = CLASSES
    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    mode: Literal["cross_contextual_attention", "swin"] = "cross_contextual_attention"
    skip_num: int = 3
    spatial_attention: bool = True
    operation: Literal["+", "mul"] = "+"
    drop_path_rate: float = 0.0

    def check(self) -> None:
        require_stages(depths=self.depths, heads=self.heads)
        require(len(self.depths) == LEVELS, "depths", self.depths, "four levels")
        require_positive(dim=self.dim, depths=self.depths, window_size=self.window_size, num_classes=self.num_classes)
        require_divisible(self.dims, self.heads)
        require_patches(self.image_size, COARSEST)
        require(self.skip_num in (1, 2, 3), "skip_num", self.skip_num, "1, 2 or 3")
        require(0 <= self.drop_path_rate < 1, "drop_path_rate", self.drop_path_rate, "from 0 up to, not including, 1")

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(self.dim * 2**level for level in range(LEVELS))

    @property
    def crosses(self) -> bool:
        return self.mode == "cross_contextual_attention"


@register("att_swin_unet", AttSwinUNetConfig)
class AttSwinUNet(Segmenter):
    """Images (B, 3 or 1, H, W) -> logits (B, K, H, W). Sides that are no multiples of 32 are zero-padded at their ends.

    Some published parameters influence nothing; they are kept, frozen, so that weights and counts agree: a second patch
    embedding of four channels, a norm, and the attention to skips that `skip_num` leaves out.
    """

    config: AttSwinUNetConfig
    no_decay = ("table",)

    def __init__(self, config: AttSwinUNetConfig) -> None:
        super().__init__(config)
        self.num_classes = config.num_classes
        dims, rates = config.dims, stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = PatchEmbed(3, config.dim, PATCH, norm=nn.LayerNorm(config.dim))
        self.encoder_blocks = nn.ModuleList(swin_blocks(config, level, rates[level]) for level in range(LEVELS))
        self.merging = nn.ModuleList(PatchMerging(dims[level], dims[level + 1]) for level in range(LEVELS - 1))
        self.encoder_norm = nn.LayerNorm(dims[-1])
        self.expand = nn.ModuleList(PatchExpand(dim, dim // 2, 2) for dim in reversed(dims[1:]))
        skip_levels = list(reversed(range(LEVELS - 1)))
        self.cross = nn.ModuleList(CrossContext(dims[level]) for level in skip_levels if config.crosses)
        self.join = nn.ModuleList(nn.Linear(2 * dims[level], dims[level]) for level in skip_levels)
        self.decoder_blocks = nn.ModuleList(swin_blocks(config, level, rates[level]) for level in skip_levels)
        self.norm = nn.LayerNorm(config.dim)
        self.enlarge = PatchExpand(config.dim, config.dim, PATCH)
        self.classifier = nn.Linear(config.dim, config.num_classes, bias=False)
        self.unread = nn.ModuleDict(
            {"stem": PatchEmbed(4, config.dim, PATCH, norm=nn.LayerNorm(config.dim)), "norm": nn.LayerNorm(dims[-1])}
        )
        for unread in (self.unread, self.cross[config.skip_num :]):
            unread.requires_grad_(False)
        self.apply(init_linear_)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        colour = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
        whole = F.pad(colour, (0, -width % COARSEST, 0, -height % COARSEST))
        skips = self.encode(channels_last(whole))[0]
        return self.classify(self.decode(skips)[-1])[:, :height, :width].permute(0, 3, 1, 2)

    def encode(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Image (B, H, W, 3) -> what goes into each level, behind them the normed deepest map; and what comes out."""
        x, entered, left = self.stem(image), [], []
        for level, blocks in enumerate(self.encoder_blocks):
            entered.append(x)
            x = blocks(x)
            left.append(x)
            x = self.merging[level](x) if level < len(self.merging) else self.encoder_norm(x)
        return [*entered[:-1], x], left

    def decode(self, skips: list[Tensor]) -> list[Tensor]:
        """The outputs of the decoder's steps, the last at a fourth of the image's resolution."""
        *skips, x = skips
        x = self.expand[0](x)
        steps = [x]
        for index, (blocks, skip) in enumerate(zip(self.decoder_blocks, reversed(skips), strict=True)):
            x = blocks(self.fuse(index, x, skip))
            x = self.expand[index + 1](x) if index + 1 < len(self.expand) else x
            steps.append(x)
        return steps

    def fuse(self, index: int, x: Tensor, skip: Tensor) -> Tensor:
        """A decoder map and its skip, both (B, H, W, C), as one."""
        config, join = self.config, self.join[index]
        if config.crosses:
            return join(torch.cat(self.cross[index](x, skip) if index < config.skip_num else (x, skip), dim=-1))
        x = join(torch.cat([x, skip], dim=-1))
        return join(torch.cat([x, skip], dim=-1)) if config.spatial_attention else x

    def classify(self, x: Tensor) -> Tensor:
        """(B, H / 4, W / 4, C) -> (B, H, W, K)."""
        return self.classifier(self.enlarge(self.norm(x)))


class CrossContext(nn.Module):
    """Two maps look at each other through their means: (B, H, W, C) twice -> the same two, with new first tokens.

    Each mean attends to the other map's tokens but the first, twice; then it takes the place of its map's first token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rounds = nn.ModuleList(
            nn.ModuleDict({"first": SummaryAttention(dim), "second": SummaryAttention(dim)}) for _ in range(2)
        )

    def forward(self, small: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
        size, maps = small.shape[1:3], [features.flatten(1, 2) for features in (small, large)]
        first, second = (tokens.mean(1, keepdim=True) for tokens in maps)
        rest = [tokens[:, 1:] for tokens in maps]
        for look in self.rounds:
            assert isinstance(look, nn.ModuleDict)
            first = first + look["first"](first, rest[1])
            second = second + look["second"](second, rest[0])
        joined = [torch.cat(pair, dim=1).unflatten(1, size) for pair in zip((first, second), rest, strict=True)]
        return joined[0], joined[1]


class SummaryAttention(nn.Module):
    """One token attends to itself and to tokens of another map: (B, 1, C), (B, N, C) -> (B, 1, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = CROSS_HEADS * CROSS_WIDTH
        self.heads = CROSS_HEADS
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, inner, bias=False)
        self.key_value = nn.Linear(dim, 2 * inner, bias=False)
        self.proj = nn.Linear(inner, dim)

    def forward(self, token: Tensor, context: Tensor) -> Tensor:
        normed = self.norm(token)
        key, value = self.key_value(torch.cat([normed, context], dim=1)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.proj(attend(self.query(normed).unflatten(-1, (self.heads, -1)), key, value))


def swin_blocks(config: AttSwinUNetConfig, level: int, rates: list[float]) -> nn.Sequential:
    """Swin blocks at one level. Every other one is shifted, unless one window covers the map's shorter side."""
    dim = config.dims[level]
    grid = halved(whole_patches(pair(config.image_size), PATCH), level)
    window, shift = window_and_shift(grid, config.window_size)

    def block(index: int, rate: float) -> Block:
        mixer = WindowAttention(
            dim, config.heads[level], window, shift=shift if index % 2 else 0, qkv_bias=config.qkv_bias
        )
        return Block(dim, mixer, MLP(dim, int(dim * config.mlp_ratio)), drop_path=rate)

    return nn.Sequential(*(block(index, rate) for index, rate in enumerate(rates)))


def reference_outputs(model: AttSwinUNet, image: Tensor) -> dict[str, Tensor]:
    skips, stages = model.encode(channels_last(image))
    steps = model.decode(skips)
    maps = {f"stage{index}": stage for index, stage in enumerate(stages)}
    maps |= {f"decoder{index}": step for index, step in enumerate(steps)} | {"logits": model.classify(steps[-1])}
    outputs = {name: features.permute(0, 3, 1, 2) for name, features in maps.items()}
    return outputs | {"logits_stride4": outputs["logits"][..., ::4, ::4]}


PUBLISHED = AttSwinUNetConfig()

VARIANTS = {"att_swin_unet": PUBLISHED, "att_swin_unet_swin_mode": PUBLISHED.replace(mode="swin")}


def _cross_name(match: re.Match[str]) -> str:
    """The reference counts these from the finest level, and their halves by place."""
    return f"cross.{2 - int(match[1])}.rounds.{match[2]}.{('first', 'second')[int(match[3])]}."


REFERENCE_NAMES = [
    (r"^patch_embed\.", "unread.stem."),
    (r"^decoder\.norm\.", "unread.norm."),
    (r"^encoder\.patch_embed\.", "stem."),
    (r"^encoder\.layers\.(\d)\.blocks\.", r"encoder_blocks.\1."),
    (r"^encoder\.layers\.(\d)\.downsample\.", r"merging.\1."),
    (r"^encoder\.norm\.", "encoder_norm."),
    (r"^decoder\.layers_up\.0\.", "expand.0."),
    (r"^decoder\.layers_up\.(\d)\.upsample\.", r"expand.\1."),
    (r"^decoder\.layers_up\.(\d)\.blocks\.", lambda match: f"decoder_blocks.{int(match[1]) - 1}."),
    (r"^decoder\.concat_back_dim\.(\d)\.", lambda match: f"join.{int(match[1]) - 1}."),
    (r"^decoder\.Crossvit_layer\.(\d)\.layers\.(\d)\.(\d)\.", _cross_name),
    (r"^decoder\.norm_up\.", "norm."),
    (r"^decoder\.up\.", "enlarge."),
    (r"^decoder\.output\.", "classifier."),
    (r"\.fn\.norm\.", ".norm."),
    (r"\.fn\.fn\.to_q\.", ".query."),
    (r"\.fn\.fn\.to_kv\.", ".key_value."),
    (r"\.fn\.fn\.to_out\.0\.", ".proj."),
    (r"\.relative_position_bias_table$", ".bias.table"),
    *BLOCK_NAMES,
]

REFERENCE_IGNORED = [r"\.relative_position_index$", r"\.attn_mask$"]
