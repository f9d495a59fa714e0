"""HAT: window attention with channel attention beside it, and windows that look beyond their borders.

"Activating More Pixels in Image Super-Resolution Transformer" (arXiv 2205.04437) and "HAT: Hybrid Attention Transformer
for Image Restoration" (arXiv 2309.05239).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, SWINIR_NAMES
from ommatid.models.reference import changed
from ommatid.models.registry import register
from ommatid.models.restorer import Restorer, mirrored
from ommatid.nn.block import Block
from ommatid.nn.conv import Conv2d
from ommatid.nn.feedforward import MLP
from ommatid.nn.image_range import ImageRange
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import OverlappingCrossAttention, WindowAttention
from ommatid.nn.residual import DropPath, Residual, stochastic_depth
from ommatid.nn.residual_groups import ResidualGroups, residual_conv, residual_group
from ommatid.nn.squeeze_excite import SqueezeExcite, init_gate_uniform_
from ommatid.nn.upsample import Reconstruction, shuffle_factors


@dataclass(frozen=True, kw_only=True)
class HATConfig(PartConfig):
    """`compress_ratio` and `squeeze_factor` narrow the convolutions beside the attention and their channel attention.

    `overlap_ratio` is the share of a window by which those of the keys are larger, over both sides together.
    """

    in_channels: int = 3
    dim: int = 144
    depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    window_size: int = 16
    scale: int = 2
    compress_ratio: int = 24
    squeeze_factor: int = 24
    conv_scale: float = 0.01
    overlap_ratio: float = 0.5
    mlp_ratio: float = 2.0
    qkv_bias: bool = True
    img_range: float = 1.0
    resi_connection: Literal["1conv", "identity"] = "1conv"
    drop_path_rate: float = 0.0

    def check(self) -> None:
        require_stages(depths=self.depths, heads=self.heads)
        require_positive(
            in_channels=self.in_channels,
            dim=self.dim,
            depths=self.depths,
            window_size=self.window_size,
            compress_ratio=self.compress_ratio,
            squeeze_factor=self.squeeze_factor,
            mlp_ratio=self.mlp_ratio,
            img_range=self.img_range,
        )
        require_divisible((self.dim,) * len(self.heads), self.heads)
        for name in ("compress_ratio", "squeeze_factor"):
            require(getattr(self, name) <= self.dim, name, getattr(self, name), f"at most the width ({self.dim})")
        overlap = int(self.window_size * self.overlap_ratio)
        even = overlap >= 0 and overlap % 2 == 0
        require(even, "overlap_ratio", self.overlap_ratio, f"what makes an even number of {self.window_size} tokens")
        require(0 <= self.drop_path_rate < 1, "drop_path_rate", self.drop_path_rate, "from 0 up to, not including, 1")
        shuffle_factors(self.scale)

    @property
    def halo_size(self) -> int:
        """By how many tokens the windows of the keys are larger on each side."""
        return int(self.window_size * self.overlap_ratio) // 2


@register("hat", HATConfig)
class HAT(Restorer):
    """Hybrid attention transformer. Takes any picture: it is mirrored up to whole windows, as by the authors."""

    config: HATConfig
    no_decay = ("table",)

    def __init__(self, config: HATConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.scale, self.multiple = config.scale, (config.window_size, config.window_size)
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.range = ImageRange(config.in_channels, config.img_range)
        self.shallow = Conv2d(config.in_channels, dim, 3, padding=1)
        self.deep = ResidualGroups(
            dim,
            [hat_group(config, i, rates[i]) for i in range(len(config.depths))],
            residual_conv(dim, config.resi_connection),
        )
        self.reconstruction = Reconstruction(dim, config.in_channels, config.scale)
        for init in (init_linear_, init_gate_uniform_):
            self.apply(init)

    def restore(self, image: Tensor) -> Tensor:
        return self.range.to_image(self.reconstruction(self.deep(self.shallow(self.range.to_map(image)))))

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> the output of each group, (B, C, H', W'), H' and W' being whole windows."""
        whole = self.range.to_map(mirrored(image, self.multiple))
        return [features.permute(0, 3, 1, 2) for features in self.deep.maps(self.shallow(whole))]


def hat_group(config: HATConfig, group: int, rates: Sequence[float]) -> Residual:
    """Hybrid attention blocks, and overlapping cross-attention at the end."""
    dim, heads = config.dim, config.heads[group]
    hybrid = [
        hat_block(config, heads, shift=config.window_size // 2 if i % 2 else 0, drop_path=rate)
        for i, rate in enumerate(rates)
    ]
    mixer = OverlappingCrossAttention(dim, heads, config.window_size, config.halo_size, qkv_bias=config.qkv_bias)
    overlapping = Block(dim, mixer, MLP(dim, int(dim * config.mlp_ratio)))
    return residual_group(dim, [nn.Sequential(*hybrid), overlapping], residual_conv(dim, config.resi_connection))


def hat_block(config: HATConfig, heads: int, *, shift: int, drop_path: float) -> nn.Sequential:
    dim = config.dim
    attention = WindowAttention(dim, heads, config.window_size, shift=shift, qkv_bias=config.qkv_bias)
    mixer = HybridAttention(
        attention,
        channel_attention_branch(dim, dim // config.compress_ratio, dim // config.squeeze_factor),
        conv_scale=config.conv_scale,
        drop_path=drop_path,
    )
    mlp = MLP(dim, int(dim * config.mlp_ratio))
    return nn.Sequential(OrderedDict(token=Residual(dim, mixer), channel=Residual(dim, mlp, drop_path=drop_path)))


class HybridAttention(nn.Module):
    """Attention plus a scaled convolutional branch, side by side on one map: (B, H, W, C) -> (B, H, W, C).

    Args:
        attention: (B, H, W, C) -> the same.
        conv: (B, H, W, C) -> the same.
        conv_scale: factor of what `conv` gives.
        drop_path: stochastic depth rate of the attention alone.
    """

    def __init__(self, attention: nn.Module, conv: nn.Module, *, conv_scale: float, drop_path: float) -> None:
        super().__init__()
        self.attention = attention
        self.conv = conv
        self.conv_scale = conv_scale
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.drop_path(self.attention(x)), self.conv(x), alpha=self.conv_scale)


def channel_attention_branch(dim: int, hidden: int, squeezed: int) -> nn.Sequential:
    """Two 3x3 convolutions through a narrow map, whose channels are then gated: (B, H, W, C) -> (B, H, W, C)."""
    return nn.Sequential(
        Conv2d(dim, hidden, 3, padding=1),
        nn.GELU(),
        Conv2d(hidden, dim, 3, padding=1),
        SqueezeExcite(dim, squeezed),
    )


SMALL = HATConfig()
BASE = SMALL.replace(dim=180, compress_ratio=3, squeeze_factor=30)

VARIANTS = {
    "hat_s_x2": SMALL,
    "hat_s_x4": SMALL.replace(scale=4),
    "hat_x2": BASE,
    "hat_x3": BASE.replace(scale=3),
    "hat_x4": BASE.replace(scale=4),
    "hat_l_x4": BASE.replace(scale=4, depths=(6,) * 12, heads=(6,) * 12),
}

REFERENCE_NAMES = [
    (r"^patch_embed\.norm\.", "deep.norm_before."),
    (r"^layers\.(\d+)\.residual_group\.blocks\.", r"deep.groups.\1.inner.blocks.0."),
    (r"^layers\.(\d+)\.residual_group\.overlap_attn\.", r"deep.groups.\1.inner.blocks.1."),
    (r"\.relative_position_bias_table$", ".bias.table"),
    (r"\.attn\.", ".token.inner.attention."),
    (r"\.blocks\.1\.(qkv|proj|bias)\.", r".blocks.1.token.inner.\1."),
    (r"\.conv_block\.cab\.3\.attention\.1\.", ".token.inner.conv.3.fc1."),
    (r"\.conv_block\.cab\.3\.attention\.3\.", ".token.inner.conv.3.fc2."),
    (r"\.conv_block\.cab\.", ".token.inner.conv."),
    *SWINIR_NAMES,
    *BLOCK_NAMES,
]

REFERENCE_IGNORED = [r"^relative_position_index_", r"^mean$"]


def convert_reference(state: dict[str, Tensor], model: HAT) -> dict[str, Tensor]:
    """Orders the position tables of the overlapping cross-attention as ours, by the offset of the query from the key.

    The reference's are by that of the key from the query; offset 0 stands in row 0, what precedes it at the end.
    """
    window, reach = model.config.window_size, model.config.window_size + 2 * model.config.halo_size
    rotation = (reach - 2) * (window + reach)
    return changed(
        state, r"\.overlap_attn\.relative_position_bias_table$", lambda table: table.roll(rotation, 0).flip(0)
    )
