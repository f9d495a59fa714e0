"""EfficientMod: one block, features modulated by their context, in place of token mixer and MLP; attention at the end.

"Efficient Modulation for Vision Networks" (arXiv 2403.19963).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, SWIN_STAGE_NAMES
from ommatid.models.registry import register
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.embed import overlapping_merging, overlapping_stem
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention, EfficientModulation
from ommatid.nn.residual import Residual, stochastic_depth

NARROWEST_HEAD = 32


@dataclass(frozen=True, kw_only=True)
class EfficientModConfig(Config):
    """`depths` counts the modulation blocks of each stage, `attention_depths` the attention blocks behind them.

    `mlp_ratios` and `kernel_sizes` have an entry for each modulation block; several kernel sizes are summed. A head is
    at least 32 wide, so that all heads together may be wider than the map.
    """

    dims: tuple[int, ...] = (32, 64, 128, 256)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    attention_depths: tuple[int, ...] = (0, 0, 1, 2)
    heads: int = 8
    mlp_ratios: tuple[tuple[int, ...], ...] = ((1, 6), (1, 6), (1, 6, 1, 6, 1, 6), (1, 6))
    attention_mlp_ratios: tuple[float, ...] = (0, 0, 4, 4)
    kernel_sizes: tuple[tuple[int | tuple[int, ...], ...], ...] = ((7,) * 2, (7,) * 2, (7,) * 6, (7,) * 2)
    layer_scale: float | None = 1e-4

    def check(self) -> None:
        require_stages(
            dims=self.dims,
            depths=self.depths,
            attention_depths=self.attention_depths,
            mlp_ratios=self.mlp_ratios,
            attention_mlp_ratios=self.attention_mlp_ratios,
            kernel_sizes=self.kernel_sizes,
        )
        require_positive(dims=self.dims, heads=self.heads)
        for field in ("mlp_ratios", "kernel_sizes"):
            entries = getattr(self, field)
            fits = all(len(of_stage) == depth for of_stage, depth in zip(entries, self.depths, strict=True))
            require(fits, field, entries, f"one for each modulation block, {self.depths} by stage")
        positive = all(ratio > 0 for ratios in self.mlp_ratios for ratio in ratios)
        require(positive, "mlp_ratios", self.mlp_ratios, "positive integers")
        sizes = [several(size) for of_stage in self.kernel_sizes for size in of_stage]
        odd = all(sizes) and all(size > 0 and size % 2 for block in sizes for size in block)
        require(odd, "kernel_sizes", self.kernel_sizes, "positive odd integers, at least one for each block")
        hidden = zip(self.dims, self.attention_mlp_ratios, self.attention_depths, strict=True)
        wide = all(int(dim * ratio) > 0 for dim, ratio, depth in hidden if depth)
        require(wide, "attention_mlp_ratios", self.attention_mlp_ratios, "positive where attention_depths is")


@register("efficientmod", EfficientModConfig)
class EfficientMod(Backbone):
    """EfficientMod, pure or with attention. Has no position encoding and rounds sides up, so any image works."""

    def __init__(self, config: EfficientModConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        depths = zip(config.depths, config.attention_depths, strict=True)
        rates = stochastic_depth(config.drop_path_rate, [sum(depth) for depth in depths])
        self.stages = pyramid_stages(
            dims,
            rates,
            overlapping_merging,
            lambda i, j, rate: efficientmod_block(config, i, j, drop_path=rate),
            stem=overlapping_stem(config.in_channels, dims[0]),
        )
        self.norm = nn.LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, channels_last(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


def efficientmod_block(config: EfficientModConfig, stage: int, index: int, *, drop_path: float) -> nn.Module:
    dim = config.dims[stage]
    if index >= config.depths[stage]:
        attention = Attention(dim, config.heads, head_dim=max(dim // config.heads, NARROWEST_HEAD), qkv_bias=False)
        return Block(dim, attention, MLP(dim, int(dim * config.attention_mlp_ratios[stage])), drop_path=drop_path)
    sizes = several(config.kernel_sizes[stage][index])
    modulation = EfficientModulation(dim, config.mlp_ratios[stage][index], sizes)
    return Residual(dim, modulation, layer_scale=config.layer_scale, drop_path=drop_path)


def several(sizes: int | tuple[int, ...]) -> tuple[int, ...]:
    return (sizes,) if isinstance(sizes, int) else sizes


def alternating(ratio: int, depths: tuple[int, ...], **fields: Any) -> EfficientModConfig:
    """Modulation with ratios 1, `ratio`, 1, ... in each stage, and kernels of 7."""
    return EfficientModConfig(
        depths=depths,
        mlp_ratios=tuple(tuple(islice(cycle((1, ratio)), depth)) for depth in depths),
        kernel_sizes=tuple((7,) * depth for depth in depths),
        **fields,
    )


VARIANTS = {
    "efficientmod_xxs": EfficientModConfig(),
    "efficientmod_xs": alternating(
        4,
        depths=(3, 3, 4, 2),
        dims=(32, 64, 144, 288),
        attention_depths=(0, 0, 3, 3),
        attention_mlp_ratios=(4, 4, 4, 4),
    ),
    "efficientmod_s": alternating(
        6,
        depths=(4, 4, 8, 4),
        dims=(32, 64, 144, 312),
        attention_depths=(0, 0, 4, 4),
        attention_mlp_ratios=(4, 4, 4, 5),
    ),
    "efficientmod_s_conv": alternating(
        6,
        depths=(4, 4, 12, 8),
        dims=(40, 80, 160, 344),
        attention_depths=(0, 0, 0, 0),
        attention_mlp_ratios=(4, 4, 4, 4),
    ),
}

REFERENCE_NAMES = [
    (r"^patch_embed\.", "stages.0.downsample."),
    (r"\.gamma_1$", ".scale.gamma"),
    (r"\.mlp\.context_layer\.f\.", ".inner.context_in."),
    (r"\.mlp\.context_layer\.g\.", ".inner.context_out."),
    (r"\.mlp\.context_layer\.context_list\.", ".inner.convs."),
    *SWIN_STAGE_NAMES,
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: EfficientMod) -> dict[str, Tensor]:
    """Modulation and attention blocks both have an "mlp": ours is in the branch that each has for it."""

    def renamed(name: str) -> str:
        block, found, layer = name.partition(".mlp.fc")
        attention = f"{block}.norm2.weight" in state
        return f"{block}.{'channel.' if attention else ''}inner.fc{layer}" if found else name

    return {renamed(name): value for name, value in state.items()}
