"""SReT: every attention block runs several times, in fewer and fewer slices, with a small MLP after each run.

"Sliced Recursive Transformer" (arXiv 2111.05297).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.reference import one_later, zero_based
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, pair
from ommatid.nn.block import pyramid
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.feedforward import MLP
from ommatid.nn.mixers import SlicedGroupAttention
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import Residual


@dataclass(frozen=True, kw_only=True)
class SReTConfig(Config):
    """A stage has `recursive_nums` blocks, each run depth // recursive_nums times in a row.

    Runs are cut into `groups1` slices, every second run of a stage into `groups2`, and these of tokens in random order,
    drawn for each run, even in evaluation. `permutation` (a, b) fixes it: token a i + b modulo N comes in place i.
    """

    image_size: int = 224
    head_dims: tuple[int, ...] = (32, 32, 32)
    heads: tuple[int, ...] = (2, 4, 8)
    depths: tuple[int, ...] = (4, 10, 6)
    recursive_nums: tuple[int, ...] = (2, 5, 3)
    groups1: tuple[int, ...] = (8, 4, 1)
    groups2: tuple[int, ...] = (2, 1, 1)
    mlp_ratio: float = 3.6
    np_mlp_ratio: float = 1
    permutation: tuple[int, int] | None = None

    def check(self) -> None:
        require_stages(
            head_dims=self.head_dims,
            heads=self.heads,
            depths=self.depths,
            recursive_nums=self.recursive_nums,
            groups1=self.groups1,
            groups2=self.groups2,
        )
        require(self.image_size > 0 and self.image_size % 8 == 0, "image_size", self.image_size, "a multiple of 8")
        require_positive(
            head_dims=self.head_dims,
            heads=self.heads,
            recursive_nums=self.recursive_nums,
            groups1=self.groups1,
            groups2=self.groups2,
        )
        for dim, wider in zip(self.dims, self.dims[1:], strict=False):
            require(wider % dim == 0, "widths (heads * head_dims)", self.dims, "each a multiple of the one before")
        require(self.dims[0] > 1, "widths (heads * head_dims)", self.dims, "at least 2")
        for depth, blocks in zip(self.depths, self.recursive_nums, strict=True):
            require(depth >= blocks, "depths", self.depths, f"at least recursive_nums = {self.recursive_nums}")
        for stage, tokens in enumerate(self.stage_tokens):
            for name in ("groups1", "groups2"):
                groups = getattr(self, name)
                require(tokens % groups[stage] == 0, name, groups, f"a divisor of {tokens} tokens in stage {stage}")
            if self.permutation is not None and self.shuffles(stage):
                coprime = math.gcd(self.permutation[0], tokens) == 1
                require(coprime, "permutation", self.permutation, f"a factor without a divisor shared with {tokens}")

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(heads * dim for heads, dim in zip(self.heads, self.head_dims, strict=True))

    @property
    def stage_tokens(self) -> tuple[int, ...]:
        return tuple((-(-self.image_size // 8 // 2**stage)) ** 2 for stage in range(len(self.depths)))

    def shuffles(self, stage: int) -> bool:
        """Whether some run of a stage is cut into slices of tokens in another order."""
        return self.groups2[stage] > 1 and self.depths[stage] > 1


@register("sret", SReTConfig)
class SReT(Backbone):
    """SReT. Takes images up to 7 pixels smaller than `image_size`, whose positions are the same."""

    config: SReTConfig

    def __init__(self, config: SReTConfig) -> None:
        super().__init__(config)
        self.image_sizes = ImageSizes(fixed=pair(config.image_size))
        dims, grid = config.dims, config.image_size // 8
        self.channels, self.strides = dims, doubling_strides(8, len(dims))
        widths = (config.in_channels, dims[0] // 2, dims[0], dims[0])
        self.stem = nn.Sequential(
            *(ConvNorm(widths[i], widths[i + 1], 3, stride=2, bias=True, act=nn.ReLU()) for i in range(3))
        )
        self.position = nn.Parameter(torch.zeros(1, grid, grid, dims[0]))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.stages = nn.ModuleList(RecursiveStage(config, stage) for stage in range(len(dims)))
        self.norm = LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)

    def maps(self, image: Tensor) -> list[Tensor]:
        side, size = self.config.image_size, tuple(image.shape[-2:])
        fits = all(-(-length // 8) == side // 8 for length in size)
        require(fits, "image size", size, f"from {side - 7} to {side} a side")
        return pyramid(self.stages, self.stem(channels_last(image)) + self.position)

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1].mean((1, 2)))


class RecursiveStage(nn.Module):
    """Strided grouped convolution, then blocks that run several times: (B, H, W, C_in) -> (B, H', W', C)."""

    def __init__(self, config: SReTConfig, stage: int) -> None:
        super().__init__()
        dims, depth, blocks = config.dims, config.depths[stage], config.recursive_nums[stage]
        dim = dims[stage]
        self.groups = (config.groups1[stage], config.groups2[stage])
        self.permutation = config.permutation
        self.runs_per_block = depth // blocks
        rate = config.drop_path_rate / sum(config.depths)
        first = sum(config.depths[:stage])
        self.downsample = (
            Conv2d(dims[stage - 1], dim, 3, stride=2, padding=1, groups=dims[stage - 1]) if stage else nn.Identity()
        )
        self.blocks = nn.ModuleList(
            SlicedBlock(dim, config.heads[stage], int(dim * config.mlp_ratio), drop_path=rate * (first + index))
            for index in range(blocks)
        )
        self.projections = nn.ModuleList(
            WeightedResidual(dim, MLP(dim, int(dim * config.np_mlp_ratio))) for _ in range(blocks * self.runs_per_block)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for run, projection in enumerate(self.projections):
            groups = self.groups[run % 2]
            order = self.token_order(x) if run % 2 and groups > 1 else None
            x = projection(self.blocks[run // self.runs_per_block](x, groups, order))
        return x

    def token_order(self, x: Tensor) -> Tensor:
        """(H * W,): the order in which tokens are sliced."""
        tokens = x.shape[1] * x.shape[2]
        if self.permutation is None:
            return torch.randperm(tokens, device=x.device)
        factor, offset = self.permutation
        return (factor * torch.arange(tokens, device=x.device) + offset) % tokens


class SlicedBlock(nn.Module):
    """Sliced group attention, then an MLP: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int, heads: int, hidden: int, *, drop_path: float) -> None:
        super().__init__()
        self.token = WeightedResidual(dim, SlicedGroupAttention(dim, heads), drop_path=drop_path)
        self.channel = WeightedResidual(dim, MLP(dim, hidden), drop_path=drop_path)

    def forward(self, x: Tensor, groups: int, order: Tensor | None) -> Tensor:
        return self.channel(self.token(x, groups, order))


class WeightedResidual(Residual):
    """A residual branch in which both summands have a learned factor; arguments as in `Residual`."""

    def __init__(self, dim: int, inner: nn.Module, *, drop_path: float = 0.0) -> None:
        super().__init__(dim, inner, norm=LayerNorm, drop_path=drop_path)
        self.input_weight = nn.Parameter(torch.ones(1))
        self.branch_weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        return self.input_weight * x + self.branch_weight * self.drop_path(self.inner(self.norm(x), *context))


TINY = SReTConfig()

VARIANTS = {
    "sret_tiny": TINY,
    "sret_light_tiny": TINY.replace(mlp_ratio=4.0),
    "sret_small": TINY.replace(head_dims=(42, 42, 42), heads=(3, 6, 12), mlp_ratio=3.0, np_mlp_ratio=2),
}

REFERENCE_NAMES = [
    (r"^pos_embed$", "position"),
    (r"^patch_embed\.conv(\d)\.", zero_based("stem.{}.conv.")),
    (r"^patch_embed\.bn(\d)\.", zero_based("stem.{}.norm.")),
    (r"^pools\.(\d+)\.conv\.", one_later("stages.{}.downsample.")),
    (r"^transformers\.", "stages."),
    (r"\.projections\.(\d+)\.norm1\.", r".projections.\1.norm."),
    (r"\.projections\.(\d+)\.mlp\.", r".projections.\1.inner."),
    (r"\.projections\.(\d+)\.coefficient1\.bias$", r".projections.\1.input_weight"),
    (r"\.projections\.(\d+)\.coefficient2\.bias$", r".projections.\1.branch_weight"),
    (r"(blocks\.\d+)\.mlp\.", r"\1.channel.inner."),
    (r"\.coefficient1\.bias$", ".token.input_weight"),
    (r"\.coefficient2\.bias$", ".token.branch_weight"),
    (r"\.coefficient3\.bias$", ".channel.input_weight"),
    (r"\.coefficient4\.bias$", ".channel.branch_weight"),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: SReT) -> dict[str, Tensor]:
    """The reference lists blocks once for every run, each followed by the MLP of the run; ours are two lists."""
    config, converted = model.config, {}
    for name, value in state.items():
        found = re.match(r"transformers\.(\d+)\.blocks\.(\d+)\.(.*)", name)
        if found is None:
            converted[name] = value.permute(0, 2, 3, 1) if name == "pos_embed" else value
            continue
        stage, (run, is_projection), rest = int(found[1]), divmod(int(found[2]), 2), found[3]
        if is_projection:
            converted[f"transformers.{stage}.projections.{run}.{rest}"] = value
        else:
            block = run // (config.depths[stage] // config.recursive_nums[stage])
            converted[f"transformers.{stage}.blocks.{block}.{rest}"] = value
    return converted
