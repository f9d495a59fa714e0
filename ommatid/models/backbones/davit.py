"""DaViT: attention between the tokens of a window alternates with attention between channels.

"DaViT: Dual Attention Vision Transformers" (arXiv 2204.03645).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.registry import register
from ommatid.nn.block import Stage, pyramid
from ommatid.nn.conv import Conv2d
from ommatid.nn.embed import overlapping_stem
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention, ChannelAttention, Windowed
from ommatid.nn.position import ConvPosition
from ommatid.nn.residual import Residual, stochastic_depth
from ommatid.ops.windows import pad_to_multiple

AttentionType = Literal["spatial", "channel"]


@dataclass(frozen=True, kw_only=True)
class DaViTConfig(Config):
    """A stage has `depths` groups of blocks, each group one block for each of the `attention_types`."""

    patch_size: int = 4
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (1, 1, 3, 1)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    attention_types: tuple[AttentionType, ...] = ("spatial", "channel")
    ffn: bool = True
    overlapped_patch: bool = False

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, heads=self.heads)
        require_divisible(self.dims, self.heads)
        require(self.patch_size == 4, "patch_size", self.patch_size, "4")
        require_positive(window_size=self.window_size)
        require(len(self.attention_types) in (1, 2), "attention_types", self.attention_types, "one type or two")


@register("davit", DaViTConfig)
class DaViT(Backbone):
    """DaViT. Takes any image: sides round up, and maps are padded to whole windows."""

    config: DaViTConfig

    def __init__(self, config: DaViTConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(config.patch_size, len(dims))
        rates = stochastic_depth(config.drop_path_rate, [2 * depth for depth in config.depths])
        self.stem = overlapping_stem(config.in_channels, dims[0])
        self.stages = nn.ModuleList(
            Stage(
                Downsample(dims[i - 1], dim, kernel_size=3 if config.overlapped_patch else 2) if i else nn.Identity(),
                [
                    davit_block(config, i, kind, drop_path=rates[i][2 * group + position])
                    for group in range(config.depths[i])
                    for position, kind in enumerate(config.attention_types)
                ],
            )
            for i, dim in enumerate(dims)
        )
        self.norm = nn.LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1].mean((1, 2)))


class Downsample(nn.Module):
    """Norm, then a convolution of stride 2 on the zero-padded map: (B, H, W, C_in) -> (B, ceil(H/2), ceil(W/2), C)."""

    def __init__(self, in_dim: int, dim: int, *, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_dim)
        self.conv = Conv2d(in_dim, dim, kernel_size, stride=2, padding=(kernel_size - 1) // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad_to_multiple(self.norm(x), (2, 2)))


def davit_block(config: DaViTConfig, stage: int, kind: AttentionType, *, drop_path: float) -> nn.Sequential:
    dim, heads = config.dims[stage], config.heads[stage]
    mixer = (
        Windowed(Attention(dim, heads, qkv_bias=config.qkv_bias), (config.window_size, config.window_size))
        if kind == "spatial"
        else ChannelAttention(dim, heads, qkv_bias=config.qkv_bias)
    )
    parts: dict[str, nn.Module] = {
        "token_position": ConvPosition(dim),
        "token": Residual(dim, mixer, drop_path=drop_path),
        "channel_position": ConvPosition(dim),
    }
    if config.ffn:
        parts["channel"] = Residual(dim, MLP(dim, int(dim * config.mlp_ratio)), drop_path=drop_path)
    return nn.Sequential(OrderedDict(parts))


TINY = DaViTConfig()
BASE = DaViTConfig(dims=(128, 256, 512, 1024), depths=(1, 1, 9, 1), heads=(4, 8, 16, 32))

VARIANTS = {
    "davit_tiny": TINY,
    "davit_small": TINY.replace(depths=(1, 1, 9, 1)),
    "davit_base": BASE,
    "davit_large_window12_384": BASE.replace(dims=(192, 384, 768, 1536), heads=(6, 12, 24, 48), window_size=12),
}

REFERENCE_NAMES = [
    (r"^patch_embeds\.0\.", "stem."),
    (r"^patch_embeds\.(\d+)\.proj\.", r"stages.\1.downsample.conv."),
    (r"^patch_embeds\.(\d+)\.norm\.", r"stages.\1.downsample.norm."),
    (r"\.cpe\.0\.proj\.", ".token_position.conv."),
    (r"\.cpe\.1\.proj\.", ".channel_position.conv."),
    (r"^norms\.", "norm."),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: DaViT) -> dict[str, Tensor]:
    """Names blocks by their place in the stage, not by group and attention type, and the mixer inside windows."""
    types = model.config.attention_types

    def ours(match: re.Match) -> str:
        stage, group, position, part = match.groups()
        block = f"stages.{stage}.blocks.{int(group) * len(types) + int(position)}"
        mixer = "token.inner.mixer." if types[int(position)] == "spatial" else "token.inner."
        return f"{block}.{mixer if part else ''}"

    return {re.sub(r"^main_blocks\.(\d+)\.(\d+)\.(\d+)\.(attn\.)?", ours, name): value for name, value in state.items()}
