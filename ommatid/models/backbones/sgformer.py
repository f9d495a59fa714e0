"""SG-Former: what one attention finds significant, the next keeps in detail, and the rest it sums up.

"SG-Former: Self-guided Transformer with Evolving Token Reallocation" (arXiv 2308.12216).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_stages
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.reference import position_map, zero_based
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, halved
from ommatid.nn.block import Block, Stage, pyramid
from ommatid.nn.conv import ConvNorm
from ommatid.nn.feedforward import ConvMLP
from ommatid.nn.init import init_conv_fan_out_, init_linear_
from ommatid.nn.mixers import Attention, GuidedAttention, GuidingAttention
from ommatid.nn.mixers.self_guided import RUNS, WINDOW, linear_conv, token_multiple
from ommatid.nn.norm import GroupNorm, LayerNorm
from ommatid.nn.position import AbsolutePosition
from ommatid.nn.residual import stochastic_depth


@dataclass(frozen=True, kw_only=True)
class SGFormerConfig(Config):
    """Four stages. With a ratio in `sr_ratios` above 1, guiding and guided blocks take turns; with 1, and in the last
    stage whatever its ratio, attention is over the whole map.
    """

    image_size: int = 224
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 4, 16, 1)
    heads: tuple[int, ...] = (2, 4, 8, 16)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)
    qkv_bias: bool = True
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)

    def check(self) -> None:
        require(len(self.dims) == 4, "dims", self.dims, "four widths, one for each stage")
        require_stages(
            dims=self.dims, depths=self.depths, heads=self.heads, mlp_ratios=self.mlp_ratios, sr_ratios=self.sr_ratios
        )
        require_divisible(self.dims, self.heads)
        require(self.dims[0] % 4 == 0, "dims", self.dims, "a multiple of 4 in the first stage")
        require(all(ratio in (1, *RUNS) for ratio in self.sr_ratios), "sr_ratios", self.sr_ratios, "of 8, 4, 2 and 1")
        for stage, depth in enumerate(self.depths):
            if self.ratio(stage) > 1:
                even = depth % 2 == 0 or self.ratio(stage + 1) == 1
                require(even, "depths", self.depths, f"an even number in stage {stage}: its blocks come in pairs")
                require(self.heads[stage] % 2 == 0, "heads", self.heads, f"an even number in stage {stage}")
        self.check_size("image_size", (self.image_size, self.image_size))

    def check_size(self, field: str, size: tuple[int, int]) -> None:
        """Raises ValueError for images whose maps do not divide into windows and runs."""
        for stage, depth in enumerate(self.depths):
            rows, columns = halved(size, stage + 2)
            ratio = self.ratio(stage)
            if ratio == 1 or depth == 0:
                continue
            windows = rows % WINDOW[0] == 0 and columns % WINDOW[1] == 0 and min(rows, columns) >= ratio
            runs = depth == 1 or rows * columns % token_multiple(ratio) == 0
            reason = (
                f"multiples of {WINDOW[0]} a side, and of {token_multiple(ratio)} tokens, in the map of stage {stage}"
            )
            require(windows and runs, field, size, f"what makes {reason}: 112 and 224 do")

    def ratio(self, stage: int) -> int:
        """The reduction ratio of a stage; 1 where attention is over the whole map."""
        return self.sr_ratios[stage] if stage < 3 else 1


@register("sgformer", SGFormerConfig)
class SGFormer(Backbone):
    """SG-Former. Takes images whose maps divide into 7 x 7 windows and into the runs of joined tokens; positions are
    resampled where that is not `image_size`.
    """

    config: SGFormerConfig

    def __init__(self, config: SGFormerConfig) -> None:
        super().__init__(config)
        self.image_sizes = ImageSizes(multiple=112)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        self.stem = nn.Sequential(
            conv_norm(config.in_channels, dims[0], 3, stride=2, act=nn.GELU()),
            conv_norm(dims[0], dims[0], 3, act=nn.GELU()),
            conv_norm(dims[0], dims[0], 3, stride=2),
            nn.LayerNorm(dims[0]),
        )
        self.position = AbsolutePosition(halved((config.image_size,) * 2, 2), dims[0])
        self.stages = nn.ModuleList(
            Stage(
                bottleneck_merging(dims[i - 1], dim) if i else nn.Identity(),
                sgformer_blocks(config, i),
                LayerNorm(dim),
            )
            for i, dim in enumerate(dims)
        )
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)
        self.apply(init_conv_fan_out_)
        init_waves_(self.position.table)

    def maps(self, image: Tensor) -> list[Tensor]:
        self.config.check_size("image size", (image.shape[-2], image.shape[-1]))
        # What the first ranking is made from is computed at full precision even under autocast, as the ranking is.
        with torch.autocast(image.device.type, enabled=False):
            patches = self.position(self.stem(channels_last(image.to(self.position.table.dtype))))
        return pyramid(self.stages, patches)

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))


def conv_norm(in_dim: int, dim: int, kernel_size: int, **options: Any) -> ConvNorm:
    """A convolution, a norm of the whole map, an activation."""
    return ConvNorm(in_dim, dim, kernel_size, norm=GroupNorm(1, dim), **options)


def bottleneck_merging(in_dim: int, dim: int) -> nn.Sequential:
    """(B, H, W, C_in) -> (B, ceil(H/2), ceil(W/2), C)."""
    return nn.Sequential(
        conv_norm(in_dim, dim, 1, act=nn.GELU()),
        conv_norm(dim, dim, 3, stride=2, groups=dim, act=nn.GELU()),
        conv_norm(dim, dim, 1),
    )


class GuidedPair(nn.Module):
    """A block that guides and the block that it guides: (B, H, W, C) -> (B, H, W, C).

    Args:
        guiding: with `GuidingAttention`.
        guided: with `GuidedAttention`.
    """

    def __init__(self, guiding: Block, guided: Block) -> None:
        super().__init__()
        self.guiding = guiding
        self.guided = guided

    def forward(self, x: Tensor) -> Tensor:
        branch = self.guiding.token
        assert isinstance(branch.inner, GuidingAttention)
        mixed, significance = branch.inner.guide(branch.norm(x))
        x = self.guiding.channel(x + branch.drop_path(mixed))
        return self.guided(x, significance)


def sgformer_blocks(config: SGFormerConfig, stage: int) -> list[nn.Module]:
    """The blocks of a stage, in pairs where they are; a guiding block may be left alone at the end."""
    dim, ratio = config.dims[stage], config.ratio(stage)
    rates = stochastic_depth(config.drop_path_rate, config.depths)[stage]
    heads, qkv_bias = config.heads[stage], config.qkv_bias

    def block(mixer: nn.Module, drop_path: float) -> Block:
        mlp = ConvMLP(dim, int(dim * config.mlp_ratios[stage]), residual=True)
        return Block(dim, mixer, mlp, norm=LayerNorm, drop_path=drop_path)

    if ratio == 1:
        return [block(Attention(dim, heads, qkv_bias=qkv_bias, local=linear_conv(dim)), rate) for rate in rates]
    guiding = [block(GuidingAttention(dim, heads, ratio, qkv_bias=qkv_bias), rate) for rate in rates[::2]]
    guided = [block(GuidedAttention(dim, heads, ratio, qkv_bias=qkv_bias), rate) for rate in rates[1::2]]
    pairs = [GuidedPair(*pair) for pair in zip(guiding, guided, strict=False)]
    return [*pairs, *guiding[len(guided) :]]


@torch.no_grad()
def init_waves_(table: Tensor) -> None:
    """Sines and cosines of the column in the first half of the channels of (1, H, W, C), of the row in the second."""
    rows, columns, channels = table.shape[1:]
    frequencies = 10000 ** -(torch.arange(channels // 4) / (channels // 4))

    def waves(length: int) -> Tensor:
        angles = torch.arange(length)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    across, down = waves(columns)[None, :], waves(rows)[:, None]
    table.copy_(torch.cat([across.expand(rows, -1, -1), down.expand(-1, columns, -1)], dim=-1)[None])


SMALL = SGFormerConfig()

VARIANTS = {
    "sgformer_s": SMALL,
    "sgformer_m": SMALL.replace(depths=(2, 6, 28, 2)),
    "sgformer_b": SMALL.replace(dims=(96, 192, 384, 768), heads=(4, 6, 12, 24), depths=(4, 6, 24, 2)),
}

REFERENCE_NAMES = [
    (r"^pos_embed$", "position.table"),
    (r"^patch_embed1\.conv\.(\d)\.", lambda match: f"stem.{int(match[1]) // 2}."),
    (r"^patch_embed1\.norm\.", "stem.3."),
    (
        r"^patch_embed(\d)\.conv(\d)\.",
        lambda match: f"stages.{int(match[1]) - 1}.downsample.{int(match[2]) - 1}.",
    ),
    (r"\.c\.weight$", ".conv.weight"),
    (r"\.bn\.", ".norm."),
    (r"^norm(\d)\.", zero_based("stages.{}.norm.")),
    (r"\.attn\.sr\.", ".token.inner.reduction.0.proj."),
    (r"\.attn\.norm\.", ".token.inner.reduction.0.norm."),
    (r"\.attn\.lepe_linear\.", ".token.inner.local.0."),
    (r"\.attn\.lepe_conv\.", ".token.inner.local.1."),
    (r"\.attn\.kv1\.", ".token.inner.coarse_key_value."),
    (r"\.attn\.kv2\.", ".token.inner.window_key_value."),
    (r"\.attn\.f(\d)\.", zero_based(".token.inner.joins.{}.")),
    (r"\.attn\.q\.", ".token.inner.query."),
    (r"\.mlp\.dwconv\.dwconv\.", ".channel.inner.conv.conv."),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: SGFormer) -> dict[str, Tensor]:
    """Joins projections of the same tokens, names blocks by their place in a pair, gives the positions two axes."""
    config, state = model.config, dict(state)
    for name in list(state):
        match = re.match(r"^(block(\d)\.(\d+)\.attn\.)(?:q|q1)\.(\w+)$", name)
        if match:
            prefix, ratio, guided = match[1], config.ratio(int(match[2]) - 1), int(match[3]) % 2 == 1
            join_projections(state, prefix, match[4], guided=guided, full=ratio == 1)

    def ours(match: re.Match) -> str:
        stage, index = int(match[1]) - 1, int(match[2])
        if config.ratio(stage) == 1:
            return f"stages.{stage}.blocks.{index}."
        alone = index == config.depths[stage] - 1 and index % 2 == 0
        place = "" if alone else ("guiding.", "guided.")[index % 2]
        return f"stages.{stage}.blocks.{index // 2}.{place}"

    state = {re.sub(r"^block(\d)\.(\d+)\.", ours, name): value for name, value in state.items()}
    return position_map(state, "pos_embed", halved((config.image_size,) * 2, 2))


def join_projections(state: dict[str, Tensor], prefix: str, leaf: str, *, guided: bool, full: bool) -> None:
    """One attention's weights or biases (`leaf`) of queries, keys and values, in place."""

    def take(name: str) -> Tensor:
        return state.pop(f"{prefix}{name}.{leaf}")

    if full:
        state[f"{prefix}qkv.{leaf}"] = torch.cat([take("q"), take("kv")])
    elif guided:
        # Both halves of the heads have the same tokens, and their keys in front of their values.
        halves = [take(name).chunk(2) for name in ("kv1", "kv2")]
        state[f"{prefix}key_value.{leaf}"] = torch.cat([part for pair in zip(*halves, strict=True) for part in pair])
    else:
        state[f"{prefix}query.{leaf}"] = torch.cat([take("q1"), take("q2")])
