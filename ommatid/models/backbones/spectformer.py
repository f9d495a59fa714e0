"""SpectFormer: early blocks mix tokens by a gain per frequency, later ones by attention.

"SpectFormer: Frequency and Attention is what you need in a Vision Transformer" (arXiv 2304.06446).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_stages
from ommatid.models.reference import rename, zero_based
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, halved, pair, require_exactly, require_patches, whole_patches
from ommatid.nn.block import Block, Stage, pyramid
from ommatid.nn.class_attention import ClassAttention
from ommatid.nn.conv import ConvNorm
from ommatid.nn.embed import PatchEmbed, overlapping_merging
from ommatid.nn.feedforward import MLP, ConvMLP
from ommatid.nn.init import init_conv_fan_out_, init_linear_
from ommatid.nn.mix_token import Box, exchange, random_box
from ommatid.nn.mixers import Attention, SpatialReductionAttention, SpectralGate
from ommatid.nn.norm import LayerNorm
from ommatid.nn.position import AbsolutePosition, positions_on_grid, resample_positions
from ommatid.nn.residual import Residual, stochastic_depth
from ommatid.nn.spatial_mlp import SpatialMLP

SPECTRAL_STAGES = 2
MIX_CELLS = 8  # stem cells on a side of the smallest box that MixToken exchanges


@dataclass(frozen=True, kw_only=True)
class SpectFormerConfig(Config):
    """Two groups of fields; `arch` says which one counts.

    vanilla: `patch_size`, `dim`, `depth`, `spectral_depth`, one number of `heads`, `mlp_ratio`.
    hierarchical: `stem_dim`, and four `dims`, `depths`, `heads` and `mlp_ratios`; `token_label` adds the classifier of
    single tokens that token labelling trains. `image_size` fixes the gains' shapes, and the position table's.
    """

    arch: Literal["vanilla", "hierarchical"] = "vanilla"
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 256
    depth: int = 12
    spectral_depth: int = 4
    heads: int | tuple[int, ...] = 4
    mlp_ratio: float = 4.0
    stem_dim: int = 32
    dims: tuple[int, ...] = (64, 128, 320, 448)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    mlp_ratios: tuple[float, ...] = (8, 8, 4, 4)
    token_label: bool = False

    def check(self) -> None:
        if self.arch == "hierarchical":
            require(isinstance(self.heads, tuple), "heads", self.heads, "one integer for each stage")
            require_stages(dims=self.dims, depths=self.depths, heads=self.stage_heads, mlp_ratios=self.mlp_ratios)
            require(len(self.dims) == 4, "dims", self.dims, "four stages")
            require_divisible(self.dims[SPECTRAL_STAGES:], self.stage_heads[SPECTRAL_STAGES:])
            require(min(pair(self.image_size)) > 0, "image_size", self.image_size, "positive integers")
            return
        require(isinstance(self.heads, int), "heads", self.heads, "one integer")
        require_divisible(self.dim, self.stage_heads[0])
        require(0 <= self.spectral_depth <= self.depth, "spectral_depth", self.spectral_depth, f"0 to {self.depth}")
        require_patches(self.image_size, self.patch_size)

    @property
    def stage_heads(self) -> tuple[int, ...]:
        return (self.heads,) if isinstance(self.heads, int) else self.heads

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches (vanilla)."""
        return whole_patches(self.image_size, self.patch_size)


@register("spectformer", SpectFormerConfig)
class SpectFormer(Backbone):
    """SpectFormer, plain ("vanilla") or a pyramid. The gains fix the image's size."""

    config: SpectFormerConfig
    no_decay = ("position.table",)

    def __init__(self, config: SpectFormerConfig) -> None:
        super().__init__(config)
        self.image_sizes = ImageSizes(fixed=pair(config.image_size))
        self.trunk = PlainTrunk(config) if config.arch == "vanilla" else PyramidTrunk(config)
        self.channels, self.strides = self.trunk.channels, self.trunk.strides
        self.head = classifier(self.embed_dim, config.num_classes)
        labelled = config.arch == "hierarchical" and config.token_label and config.num_classes > 0
        self.token_head = nn.Linear(self.embed_dim, config.num_classes) if labelled else None
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return self.trunk.maps(self._checked(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.trunk.pooled(self.maps(image))[0]

    def forward(self, image: Tensor) -> Tensor:
        """With a token classifier, half of each class's best token is added to the logits."""
        pooled, tokens = self.trunk.pooled(self.maps(image))
        if self.token_head is None:
            return self.head(pooled)
        return self.head(pooled) + 0.5 * self.token_head(tokens).amax(1)

    def token_labelling(self, image: Tensor) -> TokenLabelling:
        """What training with token labels (arXiv 2104.10858) reads, with MixToken: exchanges a box within the batch.

        Raises:
            ValueError: the model has no token classifier.
        """
        require(self.token_head is not None, "token_label", self.config.token_label, "true, with num_classes above 0")
        assert isinstance(self.trunk, PyramidTrunk)
        assert self.token_head is not None
        require(
            all(side % 32 == 0 for side in image.shape[-2:]),
            "image size",
            tuple(image.shape[-2:]),
            "multiples of 32 for token labelling",
        )
        stem = self.trunk.stem(channels_last(self._checked(image)))
        grid = (stem.shape[1] // MIX_CELLS, stem.shape[2] // MIX_CELLS)
        box = random_box(grid)
        mixed = exchange(stem, Box(*(MIX_CELLS * edge for edge in box)))
        pooled, tokens = self.trunk.pooled(pyramid(self.trunk.stages, mixed))
        token_logits = exchange(self.token_head(tokens).unflatten(1, grid), box)
        return TokenLabelling(self.head(pooled), token_logits.flatten(1, 2), box)

    def _checked(self, image: Tensor) -> Tensor:
        require_exactly(image, self.config.image_size)
        return image


class PlainTrunk(nn.Module):
    """Patches and positions, spectral blocks, attention blocks, norm."""

    def __init__(self, config: SpectFormerConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
        self.channels, self.strides = (dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        self.stem = PatchEmbed(config.in_channels, dim, config.patch_size)
        self.position = AbsolutePosition(config.grid, dim)
        self.spectral = nn.Sequential(
            *(spectral_block(dim, hidden, config.grid, drop_path=rate) for rate in rates[: config.spectral_depth])
        )
        self.attention = nn.Sequential(
            *(
                Block(dim, Attention(dim, config.stage_heads[0]), MLP(dim, hidden), norm=LayerNorm, drop_path=rate)
                for rate in rates[config.spectral_depth :]
            )
        )
        self.norm = LayerNorm(dim)

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.spectral, *self.attention]

    def maps(self, image: Tensor) -> list[Tensor]:
        return [self.attention(self.spectral(self.position(self.stem(channels_last(image)))))]

    def pooled(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(B, D) for the classifier, and the normed tokens (B, N, D)."""
        tokens = self.norm(maps[-1]).flatten(1, 2)
        return tokens.mean(1), tokens


def spectral_block(dim: int, hidden: int, size: tuple[int, int], *, drop_path: float) -> Residual:
    inner = SpatialMLP(dim, SpectralGate(dim, size), hidden, norm=LayerNorm)
    return Residual(dim, inner, norm=LayerNorm, drop_path=drop_path)


class PyramidTrunk(nn.Module):
    """A convolutional stem, two spectral stages, two of attention, and a class token that reads the last map."""

    def __init__(self, config: SpectFormerConfig) -> None:
        super().__init__()
        dims, depths = config.dims, config.depths
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        rates = stochastic_depth(config.drop_path_rate, depths)
        self.stem = spectformer_stem(config.in_channels, config.stem_dim, dims[0])
        self.stages = nn.ModuleList(
            Stage(
                overlapping_merging(dims[i - 1], dim) if i else nn.Identity(),
                [pyramid_block(config, i, drop_path=rate) for rate in rates[i]],
                LayerNorm(dim) if i < len(dims) - 1 else None,
            )
            for i, dim in enumerate(dims)
        )
        self.class_block = ClassBlock(dims[-1], config.stage_heads[-1], int(dims[-1] * config.mlp_ratios[-1]))
        self.norm = LayerNorm(dims[-1])
        self.apply(init_conv_fan_out_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def pooled(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The normed class token (B, D), and the other tokens, normed (B, N, D)."""
        tokens = maps[-1].flatten(1, 2)
        return self.norm(self.class_block(tokens)), self.norm(tokens)


def spectformer_stem(in_dim: int, hidden: int, dim: int) -> nn.Sequential:
    """Four convolutions, the first and last of stride 2: (B, H, W, C_in) -> (B, ceil(H / 4), ceil(W / 4), C)."""
    return nn.Sequential(
        ConvNorm(in_dim, hidden, 7, stride=2, act=nn.ReLU()),
        ConvNorm(hidden, hidden, 3, act=nn.ReLU()),
        ConvNorm(hidden, hidden, 3, act=nn.ReLU()),
        overlapping_merging(hidden, dim),
    )


def pyramid_block(config: SpectFormerConfig, stage: int, *, drop_path: float) -> Block:
    dim, hidden = config.dims[stage], int(config.dims[stage] * config.mlp_ratios[stage])
    mixer = (
        SpectralGate(dim, halved(pair(config.image_size), stage + 2))
        if stage < SPECTRAL_STAGES
        else SpatialReductionAttention(dim, config.stage_heads[stage], nn.Identity())
    )
    return Block(dim, mixer, ConvMLP(dim, hidden), norm=LayerNorm, drop_path=drop_path)


class ClassBlock(nn.Module):
    """Starts a class token from the mean of all tokens and lets it read them: (B, N, C) -> (B, C)."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.attention = ClassAttention(dim, heads)
        self.channel = Residual(dim, MLP(dim, hidden), norm=LayerNorm)

    def forward(self, tokens: Tensor) -> Tensor:
        start = tokens.mean(1, keepdim=True)
        read = self.attention(self.norm(torch.cat([start, tokens], dim=1)))
        return self.channel(start + read).squeeze(1)


class TokenLabelling(NamedTuple):
    """Logits of the class token (B, classes) and of every token (B, N, classes), and the box that was exchanged.

    The box counts cells of the token grid; tokens inside it are of their own image again, while the class token has
    seen the mixed one.
    """

    logits: Tensor
    token_logits: Tensor
    box: Box


def plain(dim: int, depth: int, heads: int) -> SpectFormerConfig:
    return SpectFormerConfig(dim=dim, depth=depth, heads=heads)


H_SMALL = SpectFormerConfig(arch="hierarchical", heads=(2, 4, 10, 14), token_label=True)

VARIANTS = {
    "spectformer_tiny": plain(256, 12, 4),
    "spectformer_xsmall": plain(384, 12, 6),
    "spectformer_small": plain(384, 19, 6),
    "spectformer_base": plain(512, 19, 8),
    "spectformer_h_small": H_SMALL,
    "spectformer_h_base": H_SMALL.replace(
        stem_dim=64, dims=(64, 128, 320, 512), depths=(3, 4, 12, 3), heads=(2, 4, 10, 16)
    ),
    "spectformer_h_large": H_SMALL.replace(
        stem_dim=64, dims=(96, 192, 384, 512), depths=(3, 6, 18, 3), heads=(3, 6, 12, 16)
    ),
}

REFERENCE_NAMES = [
    (r"^pos_embed$", "trunk.position.table"),
    (r"^patch_embed\.", "trunk.stem."),
    (r"^patch_embed1\.conv\.([036])\.", lambda match: f"trunk.stem.{int(match[1]) // 3}.conv."),
    (r"^patch_embed1\.conv\.([147])\.", lambda match: f"trunk.stem.{int(match[1]) // 3}.norm."),
    (r"^patch_embed1\.", "trunk.stem.3."),
    (r"^patch_embed(\d)\.", zero_based("trunk.stages.{}.downsample.")),
    (r"^block(\d)\.", zero_based("trunk.stages.{}.blocks.")),
    (r"^norm([123])\.", zero_based("trunk.stages.{}.norm.")),
    (r"^norm4?\.", "trunk.norm."),
    (r"^post_network\.0\.norm1\.", "trunk.class_block.norm."),
    (r"^post_network\.0\.attn\.", "trunk.class_block.attention."),
    (r"^post_network\.0\.norm2\.", "trunk.class_block.channel.norm."),
    (r"^post_network\.0\.mlp\.", "trunk.class_block.channel.inner."),
    (r"^aux_head\.", "token_head."),
    (r"^spectral\.(\d+)\.norm1\.", r"trunk.spectral.\1.norm."),
    (r"^spectral\.(\d+)\.norm2\.", r"trunk.spectral.\1.inner.norm."),
    (r"^spectral\.(\d+)\.filter\.complex_weight$", r"trunk.spectral.\1.inner.mixer.gain"),
    (r"^spectral\.(\d+)\.mlp\.", r"trunk.spectral.\1.inner.mlp."),
    (r"^attention\.", "trunk.attention."),
    (r"\.norm1\.", ".token.norm."),
    (r"\.norm2\.", ".channel.norm."),
    (r"\.attn\.complex_weight$", ".token.inner.gain"),
    (r"\.attn\.", ".token.inner."),
    (r"\.(inner|attention)\.q\.", r".\1.query."),
    (r"\.(inner|attention)\.kv\.", r".\1.key_value."),
    (r"^(trunk\.stages\..*)\.mlp\.dwconv\.dwconv\.", r"\1.channel.inner.conv."),
    (r"^(trunk\.(?:stages|attention)\..*)\.mlp\.", r"\1.channel.inner."),
]


def convert_reference(state: dict[str, Tensor], model: SpectFormer) -> dict[str, Tensor]:
    """Tells spectral from attention blocks, gives positions two axes, and resamples weights of another image size."""
    depth = model.config.spectral_depth
    sizes = {name: (gain.shape[0], gain.shape[1]) for name, gain in model.named_parameters() if name.endswith(".gain")}
    converted = {}
    for name, value in state.items():
        plain_block = re.match(r"blocks\.(\d+)\.(.*)", name)
        if plain_block:
            index, rest = int(plain_block[1]), plain_block[2]
            name = f"spectral.{index}.{rest}" if index < depth else f"attention.{index - depth}.{rest}"
        if name == "pos_embed":
            value = positions_on_grid(value, model.config.grid, antialias=False)
        ours = rename(name, REFERENCE_NAMES)
        converted[name] = resample_gain(value, sizes[ours]) if ours in sizes else value
    return converted


def resample_gain(gain: Tensor, size: tuple[int, int]) -> Tensor:
    """Gains (h, w, C, 2) for a map of another size, as the authors fine-tune: bicubic over the frequencies."""
    return resample_positions(gain.flatten(2).unsqueeze(0), size, antialias=False)[0].unflatten(-1, (-1, 2))
