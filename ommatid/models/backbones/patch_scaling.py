"""Adventurer: a causal Mamba-2 reads an image token by token, down to patches of one pixel.

"Scaling Laws in Patchification: An Image Is Worth 50,176 Tokens And More" (arXiv 2502.03738); the network is that of
"Causal Image Modeling for Efficient Visual Understanding" (arXiv 2410.07599).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require_divisible, require_positive
from ommatid.models.reference import changed, join_layers
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, require_exactly, require_patches
from ommatid.nn.block import Block
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import SwiGLU
from ommatid.nn.init import init_lecun_normal_, init_linear_
from ommatid.nn.mamba2 import Mamba2
from ommatid.nn.norm import RMSNorm
from ommatid.nn.residual import MakeNorm
from ommatid.nn.tokens import resample_sequence

FLIPPED = (2, 3)
"""The blocks that read the patches backwards, whatever the depth, as published."""

MLP_RATIO = 2.5

NORMS: dict[str, MakeNorm] = {"rms": partial(RMSNorm, eps=1e-5), "layer": nn.LayerNorm}


@dataclass(frozen=True, kw_only=True)
class AdventurerConfig(Config):
    """`state_dim`, `head_dim` and `expand` are those of `Mamba2`."""

    image_size: int = 224
    patch_size: int = 16
    dim: int = 256
    depth: int = 12
    state_dim: int = 64
    head_dim: int = 64
    expand: int = 2
    norm: Literal["rms", "layer"] = "rms"

    def check(self) -> None:
        require_positive(
            dim=self.dim, depth=self.depth, state_dim=self.state_dim, head_dim=self.head_dim, expand=self.expand
        )
        require_divisible(self.expand * self.dim, self.head_dim, "head_dim")
        require_patches(self.image_size, self.patch_size)

    @property
    def side(self) -> int:
        """Patches along a side; pixels that are left over do not count."""
        return self.image_size // self.patch_size

    @property
    def drop_path_rates(self) -> list[float]:
        """Of each block. The second has 0 like the first, so that the last stays below the full rate."""
        last = max(self.depth - 1, 1)
        return [self.drop_path_rate * max(block - 1, 0) / last for block in range(self.depth)]


@register("patch_scaling", AdventurerConfig)
class Adventurer(Backbone):
    """Adventurer. Takes images of exactly its image_size; the class token is the last one."""

    config: AdventurerConfig
    no_decay = ("position", "class_token", "A_log", "D", "dt_bias")

    def __init__(self, config: AdventurerConfig) -> None:
        super().__init__(config)
        self.image_sizes = ImageSizes(fixed=(config.image_size, config.image_size))
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.position = nn.Parameter(torch.zeros(1, config.side**2 + 1, config.dim))
        self.blocks = nn.ModuleList(
            adventurer_block(config, flipped=block in FLIPPED, drop_path=rate)
            for block, rate in enumerate(config.drop_path_rates)
        )
        self.norm = NORMS[config.norm](config.dim)
        self.head = classifier(config.dim, config.num_classes)
        self.stem.apply(init_lecun_normal_)
        self.head.apply(init_linear_)
        for table in (self.class_token, self.position):
            nn.init.trunc_normal_(table, std=0.02)

    def tokens(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, N + 1, C) after the last block, the class token last."""
        tokens = self._embedded(image)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def maps(self, image: Tensor) -> list[Tensor]:
        return [self.tokens(image)[:, :-1].unflatten(1, (self.config.side, self.config.side))]

    def embed(self, image: Tensor) -> Tensor:
        *earlier, last = self.blocks
        assert isinstance(last, Block)
        tokens = self._embedded(image)
        for block in earlier:
            tokens = block(tokens)
        # Nobody reads what the last channel mixer would make of the patches.
        return self.norm(last.channel(last.token(tokens)[:, -1]))

    def _embedded(self, image: Tensor) -> Tensor:
        require_exactly(image, self.config.image_size)
        patches = self.stem(channels_last(image)).flatten(1, 2)
        return torch.cat([patches, self.class_token.expand(patches.shape[0], -1, -1)], dim=1) + self.position


def adventurer_block(config: AdventurerConfig, *, flipped: bool, drop_path: float) -> Block:
    dim = config.dim
    mamba = Mamba2(dim, state_dim=config.state_dim, head_dim=config.head_dim, expand=config.expand)
    nn.init.kaiming_uniform_(mamba.proj_out.weight, a=math.sqrt(5))
    mamba.proj_out.weight.data /= math.sqrt(config.depth)
    mlp = SwiGLU(dim, int(MLP_RATIO * dim), bias=True)
    for linear in (mlp.fc1, mlp.fc2):
        nn.init.zeros_(linear.bias)
    return Block(dim, MeanFirst(mamba, flipped=flipped), mlp, norm=NORMS[config.norm], drop_path=drop_path)


class MeanFirst(nn.Module):
    """Lets a causal mixer see the mean of all tokens before the first: (B, N + 1, C) -> (B, N + 1, C).

    From "Causal Image Modeling for Efficient Visual Understanding" (arXiv 2410.07599).

    Args:
        inner: the causal mixer.
        flipped: whether it reads the tokens backwards, all but the last, which is the class token.
    """

    def __init__(self, inner: nn.Module, *, flipped: bool) -> None:
        super().__init__()
        self.inner = inner
        self.flipped = flipped

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.inner(torch.cat([x.mean(1, keepdim=True), self._turned(x)], dim=1))
        return self._turned(mixed[:, 1:])

    def _turned(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :-1].flip(1), x[:, -1:]], dim=1) if self.flipped else x


SIZES: dict[str, tuple[int, int]] = {"tiny": (256, 12), "small": (512, 12), "base": (768, 12), "large": (1024, 24)}
"""Widths and depths."""
PUBLISHED: dict[int, dict[int, tuple[str, ...]]] = {16: {224: ("tiny", "small", "base", "large")}}
PUBLISHED[1] = {**PUBLISHED[16], 128: ("tiny", "small", "base"), 64: ("tiny", "small", "base")}
"""Which sizes there are, by patch and image."""

VARIANTS = {
    f"adventurer_{size}_patch{patch}_{image}": AdventurerConfig(
        image_size=image, patch_size=patch, dim=SIZES[size][0], depth=SIZES[size][1]
    )
    for patch, images in PUBLISHED.items()
    for image, sizes in images.items()
    for size in sizes
}

REFERENCE_NAMES = [
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "position"),
    (r"^patch_embed\.", "stem."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.norm\.", r"\1.token.norm."),
    (r"\.norm_mlp\.", ".channel.norm."),
    (r"\.mixer\.in_proj\.", ".mixer.proj_in."),
    (r"\.mixer\.out_proj\.", ".mixer.proj_out."),
    (r"\.mixer\.conv1d\.", ".mixer.conv."),
    (r"\.mixer\.", ".token.inner.inner."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"\.mlp\.", ".channel.inner."),
    (r"^norm_f\.", "norm."),
]


def convert_reference(state: dict[str, Tensor], model: Adventurer) -> dict[str, Tensor]:
    """Joins gates and values, and resamples the positions of another image size.

    The class token's position is the last one and stays; the reference's own routine takes the first for it.
    """
    joined = join_layers(state, ("w1", "w2"), "fc1")
    return changed(joined, "^pos_embed$", lambda table: positions_for(table, model.config.side))


def positions_for(table: Tensor, side: int) -> Tensor:
    """A position table (1, N + 1, C) of a square grid, the class token's last, for one of `side` patches a side."""
    stored = math.isqrt(table.shape[1] - 1)
    if stored**2 != table.shape[1] - 1:
        return table
    resized = resample_sequence(table.roll(1, 1), (stored, stored), (side, side), antialias=False)
    return resized.roll(-1, 1)
