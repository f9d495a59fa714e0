"""CrossViT: two transformers with patches of two sizes, whose class tokens carry news from one to the other.

"CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification" (arXiv 2103.14899).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last
from ommatid.models.config import Config, require, require_divisible
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.reference import join_layers
from ommatid.models.registry import register
from ommatid.nn.block import Block
from ommatid.nn.class_attention import ClassAttention
from ommatid.nn.conv import Conv2d
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import DropPath, stochastic_depth
from ommatid.nn.tokens import TokenSequence

# (kernel, stride, padding) of the three convolutions that make patches of these sizes.
CONV_STEMS = {12: ((7, 4, 3), (3, 3, 0), (3, 1, 1)), 16: ((7, 4, 3), (3, 2, 1), (3, 2, 1))}


@dataclass(frozen=True, kw_only=True)
class CrossViTConfig(Config):
    """Everything but `depths` has one entry for each branch: small patches, large patches.

    `depths` has one pair for each stage. `multi_conv` embeds patches by three convolutions.
    """

    image_sizes: tuple[int, int] = (240, 224)
    patch_sizes: tuple[int, int] = (12, 16)
    dims: tuple[int, int] = (96, 192)
    depths: tuple[tuple[int, int], ...] = ((1, 4), (1, 4), (1, 4))
    heads: tuple[int, int] = (3, 3)
    mlp_ratios: tuple[float, float] = (4.0, 4.0)
    qkv_bias: bool = True
    multi_conv: bool = False

    def check(self) -> None:
        require_divisible(self.dims, self.heads)
        ordered = all(1 <= small <= large for small, large in self.depths)
        require(len(self.depths) > 0 and ordered, "depths", self.depths, "pairs from 1, the second not below the first")
        known = not self.multi_conv or all(size in CONV_STEMS for size in self.patch_sizes)
        require(known and min(self.patch_sizes) > 0, "patch_sizes", self.patch_sizes, "12 or 16 with multi_conv")
        whole = all(size > 0 and size % patch == 0 for size, patch in self.branches)
        require(whole, "image_sizes", self.image_sizes, f"multiples of patch_sizes {self.patch_sizes}")

    @property
    def branches(self) -> tuple[tuple[int, int], ...]:
        """(image size, patch size) of each branch."""
        return tuple(zip(self.image_sizes, self.patch_sizes, strict=True))


@register("crossvit", CrossViTConfig)
class CrossViT(Backbone):
    """CrossViT. Takes any image: each branch resizes it to its own square, whatever its aspect ratio.

    `features` are the patches of the two branches; `strides` are those in an image of the second branch's size.
    The embedding is both class tokens.
    """

    config: CrossViTConfig
    no_decay = ("position", "class_token.token")

    def __init__(self, config: CrossViTConfig) -> None:
        super().__init__(config)
        self.channels = config.dims
        self.strides = tuple(round(config.image_sizes[1] * patch / size) for size, patch in config.branches)
        rates = stochastic_depth(config.drop_path_rate, [deepest for _, deepest in config.depths])
        self.stems = nn.ModuleList(BranchStem(config, branch) for branch in (0, 1))
        self.stages = nn.ModuleList(
            MultiScaleStage(config, depths, stage_rates)
            for depths, stage_rates in zip(config.depths, rates, strict=True)
        )
        self.norms = nn.ModuleList(LayerNorm(dim) for dim in config.dims)
        self.head = MeanClassifier(config.dims, config.num_classes) if config.num_classes else nn.Identity()
        self.apply(init_linear_)

    @property
    def embed_dim(self) -> int:
        return sum(self.channels)

    def branch_tokens(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> (B, 1 + N_b, D_b) of both branches after the last stage, before their norms."""
        tokens = [stem(image) for stem in self.stems]
        for stage in self.stages:
            tokens = stage(tokens)
        return tokens

    def maps(self, image: Tensor) -> list[Tensor]:
        sides = [size // patch for size, patch in self.config.branches]
        return [
            tokens[:, 1:].unflatten(1, (side, side))
            for tokens, side in zip(self.branch_tokens(image), sides, strict=True)
        ]

    def embed(self, image: Tensor) -> Tensor:
        tokens = self.branch_tokens(image)
        return torch.cat([norm(branch[:, 0]) for norm, branch in zip(self.norms, tokens, strict=True)], dim=-1)


class BranchStem(nn.Module):
    """The tokens of one branch, from an image resized to its square: (B, C_in, H, W) -> (B, 1 + N, D)."""

    def __init__(self, config: CrossViTConfig, branch: int) -> None:
        super().__init__()
        self.size, patch = config.branches[branch]
        dim, side = config.dims[branch], self.size // patch
        make_patches = conv_patches if config.multi_conv else PatchEmbed
        self.patches = make_patches(config.in_channels, dim, patch)
        self.sequence = TokenSequence((side, side), dim)

    def forward(self, image: Tensor) -> Tensor:
        square = (self.size, self.size)
        if image.shape[-2:] != square:
            image = F.interpolate(image, square, mode="bicubic", align_corners=False)
        return self.sequence(self.patches(channels_last(image)))


def conv_patches(in_dim: int, dim: int, patch_size: int) -> nn.Sequential:
    """Three convolutions that embed patches of 12 or 16, with ReLU between: (B, H, W, C_in) -> (B, H', W', C)."""
    dims = (in_dim, dim // 4, dim // 2, dim)
    first, second, third = (
        Conv2d(dims[step], dims[step + 1], kernel, stride=stride, padding=padding)
        for step, (kernel, stride, padding) in enumerate(CONV_STEMS[patch_size])
    )
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


class MultiScaleStage(nn.Module):
    """Both branches by themselves, then both class tokens visit the other branch: two (B, N_b, D_b) -> the same."""

    def __init__(self, config: CrossViTConfig, depths: tuple[int, int], rates: list[float]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(
            nn.Sequential(*(crossvit_block(config, branch, drop_path=rate) for rate in rates[:depth]))
            for branch, depth in enumerate(depths)
        )
        self.visits = nn.ModuleList(
            ClassVisit(
                dim,
                config.dims[1 - branch],
                config.heads[1 - branch],
                qkv_bias=config.qkv_bias,
                drop_path=rates[-1],
            )
            for branch, dim in enumerate(config.dims)
        )

    def forward(self, tokens: Iterable[Tensor]) -> list[Tensor]:
        encoded = [encoder(branch) for encoder, branch in zip(self.encoders, tokens, strict=True)]
        partners = reversed(encoded)
        return [visit(own, other) for visit, own, other in zip(self.visits, encoded, partners, strict=True)]


class ClassVisit(nn.Module):
    """A branch's class token attends to the patches of its partner and replaces itself with what it brings back.

    (B, N, D) of the branch and (B, M, D') of the partner, each with its class token first -> (B, N, D).
    Cost: 2 M D'^2 + 2 M D' multiply-adds.
    """

    def __init__(self, dim: int, partner_dim: int, heads: int, *, qkv_bias: bool, drop_path: float) -> None:
        super().__init__()
        self.enter = projection(dim, partner_dim)
        self.norm = LayerNorm(partner_dim)
        self.attention = ClassAttention(partner_dim, heads, qkv_bias=qkv_bias)
        self.drop_path = DropPath(drop_path)
        self.leave = projection(partner_dim, dim)

    def forward(self, own: Tensor, partner: Tensor) -> Tensor:
        visitor = self.enter(own[:, :1])
        read = self.attention(self.norm(torch.cat([visitor, partner[:, 1:]], dim=1)))
        return torch.cat([self.leave(visitor + self.drop_path(read)), own[:, 1:]], dim=1)


def projection(dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(LayerNorm(dim), nn.GELU(), nn.Linear(dim, out_dim))


class MeanClassifier(nn.Module):
    """The mean of one classifier's logits for each branch: (B, D_0 + D_1) -> (B, num_classes)."""

    def __init__(self, dims: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        self.dims = dims
        self.branches = nn.ModuleList(nn.Linear(dim, num_classes) for dim in dims)

    def forward(self, embedding: Tensor) -> Tensor:
        class_tokens = embedding.split(self.dims, dim=-1)
        return torch.stack([head(own) for head, own in zip(self.branches, class_tokens, strict=True)]).mean(0)


def crossvit_block(config: CrossViTConfig, branch: int, *, drop_path: float) -> Block:
    dim = config.dims[branch]
    mixer = Attention(dim, config.heads[branch], qkv_bias=config.qkv_bias)
    return Block(dim, mixer, MLP(dim, int(dim * config.mlp_ratios[branch])), norm=LayerNorm, drop_path=drop_path)


TINY = CrossViTConfig()
SMALL = TINY.replace(dims=(192, 384), heads=(6, 6))
NINE = TINY.replace(dims=(128, 256), heads=(4, 4), depths=((1, 3),) * 3, mlp_ratios=(3, 3))
FIFTEEN = NINE.replace(dims=(192, 384), heads=(6, 6), depths=((1, 5),) * 3)
EIGHTEEN = NINE.replace(dims=(224, 448), heads=(7, 7), depths=((1, 6),) * 3)

VARIANTS = {
    "crossvit_tiny": TINY,
    "crossvit_small": SMALL,
    "crossvit_base": TINY.replace(dims=(384, 768), heads=(12, 12)),
    "crossvit_9": NINE,
    "crossvit_15": FIFTEEN,
    "crossvit_18": EIGHTEEN,
    "crossvit_9_dagger": NINE.replace(multi_conv=True),
    "crossvit_15_dagger": FIFTEEN.replace(multi_conv=True),
    "crossvit_18_dagger": EIGHTEEN.replace(multi_conv=True),
    "crossvit_15_dagger_384": FIFTEEN.replace(multi_conv=True, image_sizes=(408, 384)),
    "crossvit_18_dagger_384": EIGHTEEN.replace(multi_conv=True, image_sizes=(408, 384)),
}

REFERENCE_NAMES = [
    (r"^cls_token\.(\d)$", r"stems.\1.sequence.class_token.token"),
    (r"^pos_embed\.(\d)$", r"stems.\1.sequence.position"),
    (r"^patch_embed\.(\d)\.proj\.(\d)\.", r"stems.\1.patches.\2."),
    (r"^patch_embed\.(\d)\.", r"stems.\1.patches."),
    (r"^blocks\.(\d+)\.blocks\.", r"stages.\1.encoders."),
    (r"^blocks\.(\d+)\.projs\.(\d)\.", r"stages.\1.visits.\2.enter."),
    (r"^blocks\.(\d+)\.revert_projs\.(\d)\.", r"stages.\1.visits.\2.leave."),
    (r"^blocks\.(\d+)\.fusion\.(\d)\.norm1\.", r"stages.\1.visits.\2.norm."),
    (r"^blocks\.(\d+)\.fusion\.(\d)\.attn\.wq\.", r"stages.\1.visits.\2.attention.query."),
    (r"^blocks\.(\d+)\.fusion\.(\d)\.attn\.", r"stages.\1.visits.\2.attention."),
    (r"^norm\.", "norms."),
    (r"^head\.", "head.branches."),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: CrossViT) -> dict[str, Tensor]:
    return join_layers(state, ("wk", "wv"), "key_value")


def reference_outputs(model: CrossViT, image: Tensor) -> dict[str, Tensor]:
    return {f"tokens{branch}": tokens for branch, tokens in enumerate(model.branch_tokens(image))}
