"""SLAB: layer norms that turn into batch norms and fold away, and linear attention simple enough to fold into.

"SLAB: Efficient Transformers with Simplified Linear Attention and Progressive Re-parameterized Batch Normalization"
(arXiv 2405.11582).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.attention_types import linear_blocks, name_windowed, require_whole_windows
from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, SWIN_STAGE_NAMES, SWIN_TABLES
from ommatid.models.reference import position_map
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, pair, require_patches, whole_patches
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.deploy import fold_affine_after_, fold_affine_before_
from ommatid.nn.embed import PatchEmbed, PatchMerging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import SimplifiedLinearAttention, WindowAttention, Windowed
from ommatid.nn.moe.layer import MoE
from ommatid.nn.position import AbsolutePosition, positions_on_grid
from ommatid.nn.progressive_norm import ProgressiveNorm
from ommatid.nn.residual import MakeNorm, Residual, stochastic_depth
from ommatid.ops.windows import window_and_shift


@dataclass(frozen=True, kw_only=True)
class SLABConfig(Config):
    """Two groups of fields; `arch` says which one counts.

    slab_deit: `dim`, `depth` and one number of `heads`.
    slab_swin: `dims`, `depths`, `heads` per stage, `window_size`, and `attention_types`, a letter for each stage: L for
    linear, S for softmax, M for both, then the number of linear blocks that lead the stages M.

    The norms change in `prepbn_steps` passes, after `prepbn_warmup`; `prepbn_remaining` is how many of them are left in
    the reference cases' answer in training.
    """

    arch: Literal["slab_deit", "slab_swin"] = "slab_deit"
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 192
    depth: int = 12
    heads: int | tuple[int, ...] = 3
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    window_size: int = 56
    kernel_size: int = 5
    attention_types: str = "LLSS"
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6
    prepbn_steps: int = 60000
    prepbn_warmup: int = 0
    prepbn_remaining: int | None = None

    def check(self) -> None:
        kind = (int, "one integer") if self.arch == "slab_deit" else (tuple, "one integer for each stage")
        require(isinstance(self.heads, kind[0]), "heads", self.heads, kind[1])
        require_stages(dims=self.stage_dims, depths=self.stage_depths, heads=self.stage_heads)
        require_divisible(self.stage_dims, self.stage_heads)
        require_patches(self.image_size, self.patch_size)
        odd = self.kernel_size > 0 and self.kernel_size % 2 == 1
        require(odd, "kernel_size", self.kernel_size, "an odd positive integer")
        require_positive(prepbn_steps=self.prepbn_steps)
        require(self.prepbn_warmup >= 0, "prepbn_warmup", self.prepbn_warmup, "0 or more")
        remaining = self.prepbn_steps if self.prepbn_remaining is None else self.prepbn_remaining
        require(0 <= remaining <= self.prepbn_steps, "prepbn_remaining", remaining, f"0 to {self.prepbn_steps}")
        if self.arch == "slab_swin":
            require_positive(window_size=self.window_size)
            require_whole_windows(pair(self.image_size), self.patch_size, self.windows)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return whole_patches(self.image_size, self.patch_size)

    @property
    def stage_dims(self) -> tuple[int, ...]:
        return (self.dim,) if self.arch == "slab_deit" else self.dims

    @property
    def stage_depths(self) -> tuple[int, ...]:
        return (self.depth,) if self.arch == "slab_deit" else self.depths

    @property
    def stage_heads(self) -> tuple[int, ...]:
        return (self.heads,) if isinstance(self.heads, int) else self.heads

    @property
    def linear(self) -> list[list[bool]]:
        """Which blocks of which stage have linear attention (slab_swin)."""
        return linear_blocks(self.attention_types, self.depths, "L")

    @property
    def windows(self) -> list[set[int]]:
        """The window sides that occur in each stage (slab_swin)."""
        return [{self.window(i, linear=linear)[0] for linear in kinds} for i, kinds in enumerate(self.linear)]

    def window(self, stage: int, *, linear: bool) -> tuple[int, int]:
        """(window, shift) of one kind of blocks in a stage (slab_swin)."""
        rows, columns = self.grid
        softmax_window = 7 if self.window_size <= 56 else 12
        return window_and_shift((rows >> stage, columns >> stage), self.window_size if linear else softmax_window)


@register("slab", SLABConfig)
class SLAB(Backbone):
    """SLAB-DeiT, which takes any image of at least one patch, or SLAB-Swin, whose windows fix the image's size."""

    config: SLABConfig
    no_decay = ("table",)

    def __init__(self, config: SLABConfig) -> None:
        super().__init__(config)
        if config.arch != "slab_deit":
            self.image_sizes = ImageSizes(fixed=pair(config.image_size))
        dims, plain = config.stage_dims, config.arch == "slab_deit"
        self.channels, self.strides = dims, doubling_strides(config.patch_size, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.stage_depths)
        norm = partial(
            ProgressiveNorm, steps=config.prepbn_steps, warmup=config.prepbn_warmup, eps=config.layer_norm_eps
        )
        self.stem = PatchEmbed(config.in_channels, dims[0], config.patch_size, norm=None if plain else norm(dims[0]))
        self.position = AbsolutePosition(config.grid, dims[0]) if plain else nn.Identity()
        # The reference stores one and counts it among its parameters, but nothing reads it.
        self.class_token = nn.Parameter(torch.zeros(1, 1, dims[0]), requires_grad=False) if plain else None
        self.stages = pyramid_stages(
            dims,
            rates,
            partial(PatchMerging, norm=norm),
            lambda i, j, rate: slab_block(config, i, j, norm=norm, drop_path=rate),
        )
        self.norm = norm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        size = pair(self.config.image_size)
        fits = self.config.arch == "slab_deit" or image.shape[-2:] == size
        require(fits, "image size", tuple(image.shape[-2:]), f"{size}, fixed by image_size")
        return pyramid(self.stages, self.position(self.stem(channels_last(image))))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))

    def deploy_(self) -> None:
        """Folds every norm into the layer next to it, but the last: the embedding is normed, deployed or not.

        A norm in front of experts, which their router reads too, stays.
        """
        if isinstance(self.stem.norm, ProgressiveNorm):
            fold_affine_after_(self.stem.proj, *self.stem.norm.affine())
            self.stem.norm = nn.Identity()
        for part in self.modules():
            if isinstance(part, Residual) and isinstance(part.inner, MoE):
                continue
            if isinstance(part, Residual | PatchMerging) and isinstance(part.norm, ProgressiveNorm):
                layer = part.reduction if isinstance(part, PatchMerging) else input_layer(part.inner)
                fold_affine_before_(*part.norm.affine(), layer)
                part.norm = nn.Identity()


def slab_block(config: SLABConfig, stage: int, index: int, *, norm: MakeNorm, drop_path: float) -> Block:
    dim = config.stage_dims[stage]
    mlp = MLP(dim, int(dim * config.mlp_ratio))
    return Block(dim, slab_mixer(config, stage, index), mlp, norm=norm, drop_path=drop_path)


def slab_mixer(config: SLABConfig, stage: int, index: int) -> nn.Module:
    dim, heads = config.stage_dims[stage], config.stage_heads[stage]
    if config.arch == "slab_deit":
        return SimplifiedLinearAttention(dim, heads, config.grid, kernel_size=config.kernel_size)
    linear = config.linear[stage][index]
    side, shift = config.window(stage, linear=linear)
    shift = shift if index % 2 else 0
    if not linear:
        return WindowAttention(dim, heads, side, shift=shift)
    # No mask: the windows around the border mix what the shift brought together.
    attention = SimplifiedLinearAttention(dim, heads, (side, side), kernel_size=config.kernel_size)
    return Windowed(attention, (side, side), shift=shift)


def input_layer(inner: nn.Module) -> nn.Linear:
    """The linear layer that reads the input of a block's token mixer or MLP."""
    part = inner.mixer if isinstance(inner, Windowed) else inner
    layer = part.fc1 if isinstance(part, MLP) else part.qkv
    assert isinstance(layer, nn.Linear)
    return layer


DEIT = SLABConfig()
SWIN = SLABConfig(arch="slab_swin", patch_size=4, heads=(3, 6, 12, 24), layer_norm_eps=1e-5)
SWIN_SMALL = SWIN.replace(depths=(2, 2, 18, 2))

VARIANTS = {
    "slab_deit_tiny": DEIT,
    "slab_deit_small": DEIT.replace(dim=384, heads=6),
    "slab_swin_tiny": SWIN,
    "slab_swin_small": SWIN_SMALL,
    "slab_swin_base": SWIN_SMALL.replace(dims=(128, 256, 512, 1024), heads=(4, 8, 16, 32)),
}

REFERENCE_NAMES = [
    (r"norm(\d?)\.norm1\.", r"norm\1.layer."),
    (r"norm(\d?)\.norm2\.bn\.", r"norm\1.batch."),
    (r"norm(\d?)\.norm2\.alpha$", r"norm\1.alpha"),
    (r"\.warm$", ".warmup_left"),
    (r"\.iter$", ".steps_left"),
    (r"^cls_token$", "class_token"),
    (r"^blocks\.", "stages.0.blocks."),
    (r"\.positional_encoding$", ".position.table"),
    (r"\.dwc\.", ".conv."),
    *SWIN_STAGE_NAMES,
    *BLOCK_NAMES,
]

REFERENCE_IGNORED = [r"\.total_step$", *SWIN_TABLES]


def convert_reference(state: dict[str, Tensor], model: SLAB) -> dict[str, Tensor]:
    """Finds the linear blocks of slab_swin and gives positions their two axes; absent counters stay the model's."""
    config = model.config
    converted = state if config.arch == "slab_deit" else name_windowed(state, "dwc.weight")
    for name, value in converted.items():
        if name.endswith("positional_encoding"):
            side = round(value.shape[1] ** 0.5)
            grid = config.grid if config.arch == "slab_deit" else (side, side)
            converted = converted | {name: positions_on_grid(value, grid)}
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("_left")}
    return counters | position_map(converted, "pos_embed", config.grid)


def reference_outputs(model: SLAB, image: Tensor) -> dict[str, Tensor]:
    """The answer of a pass in training, with `prepbn_remaining` steps left, and what the last batch norm then knows."""
    trained = copy.deepcopy(model).train()
    remaining = model.config.prepbn_remaining
    for part in trained.modules():
        if isinstance(part, ProgressiveNorm):
            part.steps_left.fill_(part.steps if remaining is None else remaining)
            part.warmup_left.zero_()
    logits = trained(image)
    statistics = trained.norm.batch
    assert isinstance(statistics.running_mean, Tensor)
    assert isinstance(statistics.running_var, Tensor)
    return {
        "train_logits": logits,
        "train_running_mean": statistics.running_mean,
        "train_running_var": statistics.running_var,
    }
