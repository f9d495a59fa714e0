"""RaftMLP: MLPs along columns and along rows, over several channels at a time; patches of several sizes.

"RaftMLP: How Much Can Be Done Without Attention and with Less Spatial Locality?" (arXiv 2108.04384).
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.registry import register
from ommatid.models.sizes import ceil_to_multiple
from ommatid.nn.block import Stage, pyramid
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.mixers import RaftMixer, TokenMLP
from ommatid.nn.residual import Residual
from ommatid.ops.resize import resample


@dataclass(frozen=True, kw_only=True)
class RaftMLPConfig(Config):
    """`raft_sizes` belong to the token mixing "ser_pm", `embedding_kernels` to the embedding "emb_cross_mlp".

    With `shortcut` every stage scales and shifts what the classifier reads.
    """

    image_size: int = 224
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    patch_sizes: tuple[int, ...] = (4, 2, 2, 2)
    raft_sizes: tuple[int, ...] = (2, 2, 2, 2)
    embedding_kernels: tuple[tuple[int, ...], ...] = ((4, 8), (2, 4), (2, 4), (2,))
    token_expansion: int = 2
    channel_expansion: int = 4
    token_mixing: Literal["ser_pm", "original_tm"] = "ser_pm"
    embedding: Literal["emb_cross_mlp", "emb_mixer"] = "emb_cross_mlp"
    shortcut: bool = False

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, patch_sizes=self.patch_sizes)
        require_positive(
            image_size=self.image_size,
            token_expansion=self.token_expansion,
            channel_expansion=self.channel_expansion,
            patch_sizes=self.patch_sizes,
        )
        if self.token_mixing == "ser_pm":
            require_stages(dims=self.dims, raft_sizes=self.raft_sizes)
            require_divisible(self.dims, self.raft_sizes, "raft_sizes")
        if self.embedding == "emb_cross_mlp":
            self.check_kernels()
        else:
            for in_dim, dim, size in zip((self.in_channels, *self.dims), self.dims, self.patch_sizes, strict=False):
                require(size > 1 or in_dim == dim, "patch_sizes", self.patch_sizes, "1 only where the width stays")

    def check_kernels(self) -> None:
        require_stages(dims=self.dims, embedding_kernels=self.embedding_kernels)
        for kernels, size in zip(self.embedding_kernels, self.patch_sizes, strict=True):
            # Zeros are the same number on both sides, or the windows of one size would be fewer than those of another.
            fits = all(kernel % size == 0 and kernel >= size and (kernel - size) % 2 == 0 for kernel in kernels)
            fits = fits and bool(kernels) and kernels[0] == size
            allowed = f"{size}, then multiples of it, as even or odd as it is"
            require(fits, "embedding_kernels", self.embedding_kernels, allowed)

    @property
    def sides(self) -> list[int]:
        """Rows, and columns, of the grid that the token mixers of each stage are for."""
        _, *sides = accumulate(self.patch_sizes, lambda side, size: math.ceil(side / size), initial=self.image_size)
        return sides


@register("raftmlp", RaftMLPConfig)
class RaftMLP(Backbone):
    """RaftMLP, and MLP-Mixer as a pyramid. Any image works: maps are resampled to the grid of the token mixers."""

    config: RaftMLPConfig

    def __init__(self, config: RaftMLPConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels = dims
        self.strides = tuple(accumulate(config.patch_sizes, int.__mul__))
        in_dims = (config.in_channels, *dims)
        self.stages = nn.ModuleList(
            Stage(
                Resized(raftmlp_embed(config, i, in_dims[i], dim), config.patch_sizes[i]),
                [raftmlp_block(config, i) for _ in range(config.depths[i])],
            )
            for i, dim in enumerate(dims)
        )
        self.norm = nn.LayerNorm(dims[-1])
        finer = dims[:-1] if config.shortcut else ()
        self.shortcuts = nn.ModuleList(Modulation(dim, dims[-1]) for dim in finer)
        self.head = classifier(dims[-1], config.num_classes)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, channels_last(image))

    def embed(self, image: Tensor) -> Tensor:
        *finer, last = self.maps(image)
        pooled = self.norm(last).mean((1, 2))
        for shortcut, features in reversed(list(zip(self.shortcuts, finer, strict=False))):
            pooled = shortcut(pooled, features)
        return pooled


class Modulation(nn.Module):
    """Scales and shifts an embedding (B, D) by what a finer map (B, H, W, C) says; (B, D).

    Args:
        dim: C.
        embed_dim: D.
    """

    def __init__(self, dim: int, embed_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, 2 * embed_dim)

    def forward(self, embedding: Tensor, features: Tensor) -> Tensor:
        scale, shift = self.linear(self.norm(features).mean((1, 2))).chunk(2, dim=-1)
        return scale * embedding + shift


def raftmlp_block(config: RaftMLPConfig, stage: int) -> nn.Sequential:
    dim, rate = config.dims[stage], config.drop_path_rate
    channel_mlp = Residual(dim, MLP(dim, config.channel_expansion * dim), drop_path=rate)
    return nn.Sequential(
        OrderedDict(token=OnGrid(raftmlp_mixer(config, stage), config.sides[stage]), channel=channel_mlp)
    )


def raftmlp_mixer(config: RaftMLPConfig, stage: int) -> nn.Sequential:
    dim, rate, side = config.dims[stage], config.drop_path_rate, config.sides[stage]
    if config.token_mixing == "original_tm":
        mixers: list[nn.Module] = [TokenMLP(side**2, config.token_expansion * side**2)]
    else:
        raft = config.raft_sizes[stage]
        hidden = config.token_expansion * raft * side
        mixers = [RaftMixer(side, raft, hidden, vertical=vertical) for vertical in (True, False)]
    return nn.Sequential(*(Residual(dim, mixer, drop_path=rate) for mixer in mixers))


def raftmlp_embed(config: RaftMLPConfig, stage: int, in_dim: int, dim: int) -> nn.Module:
    size = config.patch_sizes[stage]
    if config.embedding == "emb_mixer":
        return PatchEmbed(in_dim, dim, size)
    return MultiScaleEmbed(in_dim, dim, config.embedding_kernels[stage])


class MultiScaleEmbed(nn.Module):
    """One linear layer on windows of several sizes with the same centres: (B, H, W, C_in) -> (B, H / s, W / s, C).

    That is one convolution with the largest kernel, to which the smaller ones are added.

    Args:
        in_dim: C_in.
        dim: C.
        kernel_sizes: sides of the windows; the first is the smallest and is s.
    """

    def __init__(self, in_dim: int, dim: int, kernel_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.stride, self.largest = kernel_sizes[0], max(kernel_sizes)
        bound = (in_dim * sum(size**2 for size in kernel_sizes)) ** -0.5
        self.kernels = nn.ParameterList(
            torch.empty(dim, in_dim, size, size).uniform_(-bound, bound) for size in kernel_sizes
        )
        self.bias = nn.Parameter(torch.empty(dim).uniform_(-bound, bound))

    def forward(self, features: Tensor) -> Tensor:
        padding = (self.largest - self.stride) // 2
        maps = F.conv2d(features.permute(0, 3, 1, 2), self.kernel(), self.bias, self.stride, padding)
        return maps.permute(0, 2, 3, 1)

    def kernel(self) -> Tensor:
        """(C, C_in, K, K): the sum of all kernels, zero-padded to the largest."""
        return torch.stack(
            [F.pad(kernel, ((self.largest - kernel.shape[-1]) // 2,) * 4) for kernel in self.kernels]
        ).sum(0)


class Resized(nn.Module):
    """Resamples a map to whole patches, sides rounding up, before what cuts it into patches.

    Args:
        inner: (B, H, W, C_in) -> (B, H', W', C).
        multiple: of which the sides have to be.
    """

    def __init__(self, inner: nn.Module, multiple: int) -> None:
        super().__init__()
        self.inner = inner
        self.multiple = multiple

    def forward(self, features: Tensor) -> Tensor:
        height, width = (ceil_to_multiple(side, self.multiple) for side in features.shape[1:3])
        return self.inner(resample(features, (height, width)))


class OnGrid(nn.Module):
    """Resamples a map to a square grid for a token mixer, residual connections included, and back: same shape.

    Args:
        inner: (B, side, side, C) -> (B, side, side, C).
        side: of the grid.
    """

    def __init__(self, inner: nn.Module, side: int) -> None:
        super().__init__()
        self.inner = inner
        self.side = side

    def forward(self, features: Tensor) -> Tensor:
        size = (features.shape[1], features.shape[2])
        mixed = self.inner(resample(features, (self.side, self.side)))
        return resample(mixed, size)


S = RaftMLPConfig()
M = S.replace(dims=(96, 192, 384, 768))
PLAIN = S.replace(dims=(768,), depths=(12,), patch_sizes=(16,), embedding="emb_mixer", raft_sizes=(4,))

VARIANTS = {
    "raftmlp_s": S,
    "raftmlp_m": M,
    "raftmlp_l": S.replace(dims=(128, 192, 512, 1024)),
    "raftmlp_hierarchy_m": M.replace(embedding="emb_mixer"),
    "raftmlp_12_r4": PLAIN,
    "raftmlp_org_mixer": PLAIN.replace(token_mixing="original_tm", raft_sizes=S.raft_sizes),
}


REFERENCE_NAMES = [
    (r"^levels\.(\d+)\.fn\.0\.fc\.", r"stages.\1.downsample.inner."),
    (r"^levels\.(\d+)\.fn\.1\.", r"stages.\1.downsample.inner.proj."),
    (r"^levels\.(\d+)\.fn\.(\d+)\.", lambda match: f"stages.{match[1]}.blocks.{int(match[2]) - 2}."),
    (r"\.1\.norm\.1\.", ".token.inner.0.norm."),
    (r"\.1\.fn\.", ".token.inner.0.inner.mlp."),
    (r"\.3\.norm\.1\.", ".token.inner.1.norm."),
    (r"\.3\.fn\.", ".token.inner.1.inner.mlp."),
    (r"\.5\.norm\.", ".channel.norm."),
    (r"\.5\.fn\.", ".channel.inner."),
    (r"(inner|mlp)\.0\.(weight|bias)$", r"\1.fc1.\2"),
    (r"(inner|mlp)\.3\.(weight|bias)$", r"\1.fc2.\2"),
    (r"^heads\.(\d+)\.1\.", r"shortcuts.\1.norm."),
    (r"^heads\.(\d+)\.4\.", r"shortcuts.\1.linear."),
    (r"^classifier\.", "head."),
]


def convert_reference(state: dict[str, Tensor], model: RaftMLP) -> dict[str, Tensor]:
    """The reference has linear layers where we have convolutions, and norms of mixers in the order of the rafts."""
    config = model.config
    converted: dict[str, Tensor] = {}
    last_head = f"heads.{len(config.dims) - 1 if config.shortcut else 0}.1."
    for name, value in state.items():
        stage = int(name.split(".")[1]) if name.startswith("levels") else 0
        if name.endswith("fn.0.fc.weight"):
            converted |= {
                f"{name[:-6]}kernels.{i}": kernel for i, kernel in enumerate(split_kernels(value, model, stage))
            }
        elif re.search(r"^levels\.\d+\.fn\.1\.weight$", name):
            size = config.patch_sizes[stage]
            converted[name] = value.unflatten(1, (size, size, -1)).permute(0, 3, 1, 2)
        elif config.token_mixing == "original_tm":
            # Without a second token mixer the channel MLP comes third; with one it is the fifth.
            converted[re.sub(r"^(levels\.\d+\.fn\.\d+)\.3\.", r"\1.5.", name).replace(last_head, "norm.")] = value
        elif ".norm.1." in name:
            converted[name] = value.view(-1, config.raft_sizes[stage]).T.flatten()
        else:
            converted[name.replace(last_head, "norm.")] = value
    return converted


def split_kernels(weight: Tensor, model: RaftMLP, stage: int) -> list[Tensor]:
    """The linear layer on the windows of all sizes, (C, C_in * sum of K^2), as one kernel (C, C_in, K, K) for each."""
    sizes = model.config.embedding_kernels[stage]
    in_dim = weight.shape[1] // sum(size**2 for size in sizes)
    parts = weight.split([in_dim * size**2 for size in sizes], dim=1)
    return [part.unflatten(1, (in_dim, size, size)) for part, size in zip(parts, sizes, strict=True)]
