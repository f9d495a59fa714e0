"""CvT: convolutions where a transformer projects, between tokens and queries and between stages.

"CvT: Introducing Convolutions to Vision Transformers" (arXiv 2103.15808).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.activation import QuickGELU
from ommatid.nn.block import Block
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import ConvProjectionAttention
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.tokens import ClassToken, split_tokens


@dataclass(frozen=True, kw_only=True)
class CvTConfig(Config):
    """`class_token` says for each stage whether it has one; the drop path acts in the last stage only."""

    dims: tuple[int, ...] = (64, 192, 384)
    depths: tuple[int, ...] = (1, 2, 10)
    heads: tuple[int, ...] = (1, 3, 6)
    mlp_ratios: tuple[float, ...] = (4.0, 4.0, 4.0)
    patch_sizes: tuple[int, ...] = (7, 3, 3)
    patch_strides: tuple[int, ...] = (4, 2, 2)
    patch_paddings: tuple[int, ...] = (2, 1, 1)
    kernel_sizes: tuple[int, ...] = (3, 3, 3)
    kv_strides: tuple[int, ...] = (2, 2, 2)
    qkv_bias: bool = True
    class_token: tuple[bool, ...] = (False, False, True)

    def check(self) -> None:
        require_stages(
            dims=self.dims,
            depths=self.depths,
            heads=self.heads,
            mlp_ratios=self.mlp_ratios,
            patch_sizes=self.patch_sizes,
            patch_strides=self.patch_strides,
            patch_paddings=self.patch_paddings,
            kernel_sizes=self.kernel_sizes,
            kv_strides=self.kv_strides,
            class_token=self.class_token,
        )
        require_divisible(self.dims, self.heads)
        require_positive(
            patch_sizes=self.patch_sizes,
            patch_strides=self.patch_strides,
            kernel_sizes=self.kernel_sizes,
            kv_strides=self.kv_strides,
        )
        require(min(self.patch_paddings) >= 0, "patch_paddings", self.patch_paddings, "0 or more")
        odd = all(kernel % 2 for kernel in self.kernel_sizes)
        require(odd, "kernel_sizes", self.kernel_sizes, "odd integers: queries are as many as tokens")

    @property
    def smallest_image(self) -> int:
        """Pixels a side that leave the last stage one cell."""
        side = 1
        geometry = zip(self.patch_sizes, self.patch_strides, self.patch_paddings, strict=True)
        for kernel, stride, padding in reversed(list(geometry)):
            side = max(1, (side - 1) * stride + kernel - 2 * padding)
        return side


@register("cvt", CvTConfig)
class CvT(Backbone):
    """CvT. Has no position encoding: any image works that leaves the last stage a cell."""

    config: CvTConfig
    no_decay = ("class_token.token",)

    def __init__(self, config: CvTConfig) -> None:
        super().__init__(config)
        self.channels = config.dims
        self.strides = tuple(math.prod(config.patch_strides[: stage + 1]) for stage in range(len(config.dims)))
        self.stages = nn.ModuleList(CvTStage(config, stage) for stage in range(len(config.dims)))
        self.norm = nn.LayerNorm(config.dims[-1])
        self.head = classifier(config.dims[-1], config.num_classes)
        self.stages.apply(init_linear_)
        if isinstance(self.head, nn.Linear):
            nn.init.trunc_normal_(self.head.weight, std=0.02)  # its bias keeps PyTorch's, as in the reference

    def maps(self, image: Tensor) -> list[Tensor]:
        return self._run(image)[0]

    def embed(self, image: Tensor) -> Tensor:
        maps, class_token = self._run(image)
        if self.config.class_token[-1]:
            return self.norm(class_token).squeeze(1)
        return self.norm(maps[-1]).mean((1, 2))

    def _run(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The map of each stage, and the last stage's class token (B, 1, D) or nothing (B, 0, D)."""
        require_at_least(image, self.config.smallest_image)
        features, maps = channels_last(image), []
        for stage in self.stages:
            class_token, features = stage(features)
            maps.append(features)
        return maps, class_token


class CvTStage(nn.Module):
    """Overlapping patches, then blocks on them and perhaps a class token: (B, H, W, C_in) -> (B, S, C), (B, H', W', C).

    S is 1 with a class token and 0 without.
    """

    def __init__(self, config: CvTConfig, stage: int) -> None:
        super().__init__()
        dim, in_dim = config.dims[stage], config.dims[stage - 1] if stage else config.in_channels
        last = stage == len(config.dims) - 1
        (rates,) = stochastic_depth(config.drop_path_rate if last else 0.0, [config.depths[stage]])
        self.embed = PatchEmbed(
            in_dim,
            dim,
            config.patch_sizes[stage],
            stride=config.patch_strides[stage],
            padding=config.patch_paddings[stage],
            norm=nn.LayerNorm(dim),
        )
        self.class_token = ClassToken(dim) if config.class_token[stage] else nn.Identity()
        self.blocks = nn.ModuleList(cvt_block(config, stage, drop_path=rate) for rate in rates)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.embed(features)
        size = (patches.shape[1], patches.shape[2])
        tokens = self.class_token(patches.flatten(1, 2))
        for block in self.blocks:
            tokens = block(tokens, size)
        return split_tokens(tokens, size)


def cvt_block(config: CvTConfig, stage: int, *, drop_path: float) -> Block:
    dim = config.dims[stage]
    mixer = ConvProjectionAttention(
        dim,
        config.heads[stage],
        kernel_size=config.kernel_sizes[stage],
        stride=config.kv_strides[stage],
        qkv_bias=config.qkv_bias,
    )
    mlp = MLP(dim, int(dim * config.mlp_ratios[stage]), act=QuickGELU())
    return Block(dim, mixer, mlp, drop_path=drop_path)


# The published models at 384 x 384 have the configurations of those at 224 x 224.
VARIANTS = {
    "cvt_13": CvTConfig(),
    "cvt_21": CvTConfig(depths=(1, 4, 16)),
    "cvt_w24": CvTConfig(dims=(192, 768, 1024), depths=(2, 2, 20), heads=(3, 12, 16)),
}

ROLES = {"q": "query", "k": "key", "v": "value"}

REFERENCE_NAMES = [
    (r"^stage(\d+)\.cls_token$", r"stages.\1.class_token.token"),
    (r"^stage(\d+)\.patch_embed\.", r"stages.\1.embed."),
    (r"^stage(\d+)\.", r"stages.\1."),
    (r"\.attn\.conv_proj_(\w)\.conv\.", lambda match: f".token.inner.convs.{ROLES[match[1]]}.conv."),
    (r"\.attn\.conv_proj_(\w)\.bn\.", lambda match: f".token.inner.convs.{ROLES[match[1]]}.norm."),
    (r"\.attn\.proj_(\w)\.", lambda match: f".token.inner.linears.{ROLES[match[1]]}."),
    (r"\.attn\.proj\.", ".token.inner.proj."),
    *BLOCK_NAMES,
]
